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

  // Runs the model, fills the responses and updates the sequence states, and notes the times (all
  // but exec_start) in every work. Throws a Failure, after which the responses are dropped.
  void Run(RequestWork* const* works, size_t count);

 private:
  void Execute(RequestWork* const* works, size_t count, int64_t total);
  void GatherInputs(RequestWork* const* works, size_t count, int64_t total);
  void ChooseOutputs(RequestWork* const* works, size_t count);
  void PlaceOutputs(RequestWork* work, bool in_response);
  OrtValue* PlaceInResponse(RequestWork* work, const OutputSlot& slot, bool* misaligned);
  OrtStatus* RunSession();
  void DeliverOutputs(RequestWork* const* works, size_t count, int64_t total);
  void DeliverStates(RequestWork* const* works, size_t count, int64_t total);

  const Signature& signature_;
  const std::shared_ptr<OrtSession> session_;
  const RunOptionsPtr run_options_;
  bool write_in_place_ = true;  // until the model turns out to break its own shape promises
  bool placed_any_ = false;

  InputGather gather_;
  OutputScatter scatter_;
  ValueList inputs_;
  ValueList outputs_;
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
  std::vector<size_t> chosen_;  // indices of the signature's outputs that this run computes
  std::vector<char> placed_;    // parallel to chosen_: already in the response
  std::vector<int64_t> shape_;
};

}  // namespace ort_backend
