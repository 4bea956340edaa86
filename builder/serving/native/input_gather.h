// From the inputs of requests to ONNX Runtime tensors. One contiguous buffer in CPU memory is used
// in place; anything else is copied, several requests behind one another along the batch dim.
#pragma once

#include <memory>
#include <vector>

#include "ort_runtime.h"
#include "request.h"

namespace ort_backend {

// Aligned memory that grows as needed and is reused from run to run.
class Scratch {
 public:
  char* Reserve(size_t size);
  void Trim();  // gives back what is too large to keep

 private:
  struct Free {
    void operator()(char* memory) const;
  };
  std::unique_ptr<char, Free> memory_;
  size_t capacity_ = 0;
};

class InputGather {
 public:
  explicit InputGather(const Signature& signature);

  // The tensor of input `index` for `count` requests of `total` rows together. Valid until the next
  // call for that index, and as long as the requests are not released.
  ValuePtr Gather(size_t index, RequestWork* const* works, size_t count, int64_t total);
  void Trim();

 private:
  ValuePtr Numbers(size_t index, RequestWork* const* works, size_t count);
  ValuePtr Strings(size_t index, RequestWork* const* works, size_t count);

  const Signature& signature_;
  std::vector<Scratch> scratch_;  // parallel to Signature::inputs
  std::vector<char> text_;        // one request's serialised strings
  std::vector<int64_t> shape_;
};

}  // namespace ort_backend
