// From ONNX Runtime's output tensors to the responses and the sequence states of requests.
#pragma once

#include <vector>

#include "ort_runtime.h"
#include "request.h"

namespace ort_backend {

// A CPU buffer of `size` bytes for an output of the work's response, which is opened if need be.
void* OutputBuffer(RequestWork* work, const OutputSlot& slot, const int64_t* shape, size_t rank,
                   size_t size);

// One output of a run, split along the batch dim.
class OutputScatter {
 public:
  // Reads the shape of `value`, unless it is the one that was loaded last. Throws a Failure when
  // its batch dim is not `total` rows.
  void Load(const Signature& signature, const OutputSlot& slot, OrtValue* value, int64_t total);

  // To be called before the loaded value is released.
  void Forget() { value_ = nullptr; }

  const std::vector<int64_t>& shape() const { return shape_; }  // of all rows

  // The rows from `row` on that belong to `work`: into its response, or into its sequence state.
  void ToResponse(RequestWork* work, int64_t row);
  void ToState(RequestWork* work, int64_t row);

 private:
  size_t PrepareSlice(const RequestWork& work, int64_t row);
  void LoadStrings();
  void CopySlice(void* target, size_t size) const;

  OrtValue* value_ = nullptr;
  const OutputSlot* slot_ = nullptr;
  bool batched_ = false;
  std::vector<int64_t> shape_;
  std::vector<int64_t> slice_shape_;
  size_t row_elements_ = 0;
  size_t first_ = 0;  // the slice: elements first_ ... last_
  size_t last_ = 0;
  const char* data_ = nullptr;
  bool strings_loaded_ = false;
  std::vector<char> text_;       // all strings, one behind the other
  std::vector<size_t> offsets_;  // where each starts, and the end
};

}  // namespace ort_backend
