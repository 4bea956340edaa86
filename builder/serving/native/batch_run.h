// One run of the session for one or more requests of the same dims.
#pragma once

#include <memory>
#include <vector>

#include "input_gather.h"
#include "output_scatter.h"

namespace ort_backend {

// Tensors of one run, released together.
class ValueList {
 public:
  ValueList() = default;
  ValueList(const ValueList&) = delete;
  ValueList& operator=(const ValueList&) = delete;
  ~ValueList() { Clear(); }

  void Clear();
  void Add(OrtValue* value) { values_.push_back(value); }  // takes ownership, may be null
  OrtValue** data() { return values_.data(); }
  size_t size() const { return values_.size(); }
  OrtValue* operator[](size_t i) const { return values_[i]; }

 private:
  std::vector<OrtValue*> values_;
};

class BatchRun {
 public:
  BatchRun(const Signature& signature, std::shared_ptr<OrtSession> session,
           RunOptionsPtr run_options);

  // Runs the model, fills the responses, updates the sequence states, and notes the times (all but
  // exec_start) in every work. A request whose response cannot be filled gets its own error. Throws
  // a Failure when the run itself failed; then several requests have no response opened yet, so
  // that they can be run again.
  void Run(RequestWork* const* works, size_t count);

 private:
  // An output that is computed beside its unaligned response buffer.
  struct Bounce {
    void* target;
    const char* source;
    size_t size;
  };

  void Execute(RequestWork* const* works, size_t count, int64_t total);
  void Clear();
  void GatherInputs(RequestWork* const* works, size_t count, int64_t total);
  void ChooseOutputs(RequestWork* const* works, size_t count);
  void PlaceOutputs(RequestWork* only);
  OrtValue* PlaceInResponse(RequestWork* work, size_t output);
  OrtStatus* CallSession();
  void RunSession();
  bool Predict(const OutputSlot& slot, const RequestWork& work, int64_t total, size_t* size);
  void Learn(const RequestWork& work, int64_t total);
  void CheckOutputs(int64_t total);
  void Deliver(RequestWork* const* works, size_t count, int64_t total);

  const Signature& signature_;
  const std::shared_ptr<OrtSession> session_;
  const RunOptionsPtr run_options_;
  int trust_ = 0;  // runs in which all shapes were as predicted; negative: never again

  InputGather gather_;
  OutputScatter scatter_;
  ValueList inputs_;
  ValueList outputs_;
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
  std::vector<size_t> chosen_;  // indices of the signature's outputs that this run computes
  std::vector<char> placed_;    // parallel to chosen_: already in the response
  std::vector<Scratch> beside_;  // parallel to Signature::outputs
  std::vector<Bounce> bounces_;
  std::vector<int64_t> shape_;  // the prediction at hand
};

}  // namespace ort_backend
