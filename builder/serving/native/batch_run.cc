#include "batch_run.h"

#include <algorithm>
#include <cstring>

#include "failure.h"

namespace ort_backend {
namespace {

// Outputs are written in place once this many runs had the predicted shapes: the dims that an ONNX
// file declares are not always kept, and a response output cannot be taken back.
constexpr int kTrusted = 4;
constexpr int kNeverTrust = -1;

}  // namespace

void ValueList::Clear() {
  for (OrtValue* value : values_) {
    if (value != nullptr) Ort().ReleaseValue(value);
  }
  values_.clear();
}

BatchRun::BatchRun(const Signature& signature, std::shared_ptr<OrtSession> session,
                   RunOptionsPtr run_options)
    : signature_(signature),
      session_(std::move(session)),
      run_options_(std::move(run_options)),
      gather_(signature),
      beside_(signature.outputs.size()) {}

void BatchRun::Run(RequestWork* const* works, size_t count) {
  int64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += works[i]->batch;
  try {
    Execute(works, count, total);
  } catch (...) {
    Clear();
    throw;
  }
  Clear();
}

void BatchRun::Clear() {
  scatter_.Forget();
  inputs_.Clear();
  outputs_.Clear();
  gather_.Trim();
  for (Scratch& scratch : beside_) scratch.Trim();
}

void BatchRun::Execute(RequestWork* const* works, size_t count, int64_t total) {
  GatherInputs(works, count, total);
  ChooseOutputs(works, count);
  // Only one request's rows can be written where they will be sent from.
  PlaceOutputs(count == 1 && trust_ >= kTrusted ? works[0] : nullptr);
  const uint64_t compute_start = NowNs();
  RunSession();
  const uint64_t compute_end = NowNs();
  CheckOutputs(total);
  Learn(*works[0], total);
  Deliver(works, count, total);
  const uint64_t exec_end = NowNs();
  for (size_t i = 0; i < count; ++i) {
    works[i]->times.compute_start = compute_start;
    works[i]->times.compute_end = compute_end;
    works[i]->times.exec_end = exec_end;
  }
}

void BatchRun::GatherInputs(RequestWork* const* works, size_t count, int64_t total) {
  input_names_.clear();
  for (size_t i = 0; i < signature_.inputs.size(); ++i) {
    if (works[0]->inputs[i].handle == nullptr) continue;  // optional and left out
    inputs_.Add(gather_.Gather(i, works, count, total).release());
    input_names_.push_back(signature_.inputs[i].name.c_str());
  }
}

void BatchRun::ChooseOutputs(RequestWork* const* works, size_t count) {
  chosen_.clear();
  output_names_.clear();
  for (size_t o = 0; o < signature_.outputs.size(); ++o) {
    bool needed = signature_.outputs[o].is_state;
    for (size_t i = 0; !needed && i < count; ++i) needed = works[i]->wanted[o] != 0;
    if (!needed) continue;
    chosen_.push_back(o);
    output_names_.push_back(signature_.outputs[o].name.c_str());
  }
}

void BatchRun::PlaceOutputs(RequestWork* only) {
  placed_.clear();
  bounces_.clear();
  for (const size_t o : chosen_) {
    const bool place =
        only != nullptr && signature_.outputs[o].predictable && only->wanted[o] != 0;
    OrtValue* value = place ? PlaceInResponse(only, o) : nullptr;
    outputs_.Add(value);
    placed_.push_back(value != nullptr ? 1 : 0);
  }
}

// Null when there is nothing to place.
OrtValue* BatchRun::PlaceInResponse(RequestWork* work, size_t output) {
  const OutputSlot& slot = signature_.outputs[output];
  size_t size = 0;
  if (!Predict(slot, *work, work->batch, &size) || size == 0) return nullptr;
  void* buffer = OutputBuffer(work, slot, shape_.data(), shape_.size(), size);
  // A client's shared memory may start anywhere.
  if (reinterpret_cast<uintptr_t>(buffer) % slot.type->byte_size != 0) {
    char* beside = beside_[output].Reserve(size);
    bounces_.push_back({buffer, beside, size});
    buffer = beside;
  }
  OrtValue* value = nullptr;
  Check(Ort().CreateTensorWithDataAsOrtValue(OrtRuntime::CpuMemory(), buffer, size, shape_.data(),
                                             shape_.size(), slot.type->ort, &value),
        "placing an output");
  return value;
}

OrtStatus* BatchRun::CallSession() {
  return Ort().Run(session_.get(), run_options_.get(), input_names_.data(), inputs_.data(),
                   inputs_.size(), output_names_.data(), output_names_.size(), outputs_.data());
}

void BatchRun::RunSession() {
  OrtStatus* status = CallSession();
  if (status == nullptr) {
    for (const Bounce& bounce : bounces_) std::memcpy(bounce.target, bounce.source, bounce.size);
    return;
  }
  const std::string who = "model '" + signature_.model + "': ";
  const bool placed = std::find(placed_.begin(), placed_.end(), 1) != placed_.end();
  if (placed && std::strstr(Ort().GetErrorMessage(status), "shape") != nullptr) {
    // Was it the request, or did the model after many good runs break its promise about shapes?
    outputs_.Clear();
    for (size_t k = 0; k < chosen_.size(); ++k) outputs_.Add(nullptr);
    OrtStatus* again = CallSession();
    if (again == nullptr) {
      Ort().ReleaseStatus(status);
      trust_ = kNeverTrust;
      throw Failure(TRITONSERVER_ERROR_UNAVAILABLE,
                    who + "an output's shape is not the one that the ONNX file promises; this will "
                          "not happen to later requests, send it again");
    }
    Ort().ReleaseStatus(again);
  }
  Check(status, (who + "the run failed").c_str());
}

// The output's shape for `total` rows into shape_, its bytes into `size`; false when unknown.
bool BatchRun::Predict(const OutputSlot& slot, const RequestWork& work, int64_t total,
                       size_t* size) {
  shape_.clear();
  *size = slot.type->byte_size;
  for (const DimSource& source : slot.dims) {
    int64_t dim = source.value;
    if (source.kind == DimSource::Kind::kBatch) dim = total;
    if (source.kind == DimSource::Kind::kInput) {
      const InputView& input = work.inputs[source.input];
      if (source.dim >= input.rank) return false;
      dim = input.shape[source.dim];
    }
    shape_.push_back(dim);
    if (__builtin_mul_overflow(*size, static_cast<size_t>(dim), size)) return false;
  }
  return true;
}

void BatchRun::Learn(const RequestWork& work, int64_t total) {
  if (trust_ == kNeverTrust || trust_ >= kTrusted) return;
  for (size_t k = 0; k < chosen_.size(); ++k) {
    const OutputSlot& slot = signature_.outputs[chosen_[k]];
    size_t size = 0;
    if (!slot.predictable || !Predict(slot, work, total, &size)) continue;
    scatter_.Load(signature_, slot, outputs_[k], total);
    if (scatter_.shape() == shape_) continue;
    trust_ = kNeverTrust;
    Log(TRITONSERVER_LOG_WARN, "model '" + signature_.model + "': output '" + slot.name +
                                   "' has shape " + ShapeText(scatter_.shape()) +
                                   " where the ONNX file promises " + ShapeText(shape_));
    return;
  }
  ++trust_;
}

// Whatever is wrong with all of the outputs has to come out before the first response is opened.
void BatchRun::CheckOutputs(int64_t total) {
  for (size_t k = 0; k < chosen_.size(); ++k) {
    if (placed_[k] == 0) {
      scatter_.Load(signature_, signature_.outputs[chosen_[k]], outputs_[k], total);
    }
  }
}

void BatchRun::Deliver(RequestWork* const* works, size_t count, int64_t total) {
  for (size_t k = 0; k < chosen_.size(); ++k) {
    const size_t o = chosen_[k];
    const OutputSlot& slot = signature_.outputs[o];
    if (placed_[k] != 0 && !slot.is_state) continue;
    scatter_.Load(signature_, slot, outputs_[k], total);
    int64_t row = 0;
    for (size_t i = 0; i < count; ++i) {
      RequestWork* work = works[i];
      if (work->error == nullptr) {
        work->error = Guard([&] {
          if (work->wanted[o] != 0 && placed_[k] == 0) scatter_.ToResponse(work, row);
          if (slot.is_state) scatter_.ToState(work, row);
        });
      }
      row += work->batch;
    }
  }
}

}  // namespace ort_backend
