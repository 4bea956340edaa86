#include "batch_run.h"

#include "failure.h"

namespace ort_backend {

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
      gather_(signature) {}

void BatchRun::Run(RequestWork* const* works, size_t count) {
  int64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += works[i]->batch;
  try {
    Execute(works, count, total);
  } catch (...) {
    inputs_.Clear();
    outputs_.Clear();
    for (size_t i = 0; i < count; ++i) works[i]->DropResponse();
    throw;
  }
  inputs_.Clear();
  outputs_.Clear();
  gather_.Trim();
}

void BatchRun::Execute(RequestWork* const* works, size_t count, int64_t total) {
  GatherInputs(works, count, total);
  ChooseOutputs(works, count);
  // Only one request's rows can be written where they will be sent from.
  PlaceOutputs(works[0], count == 1 && write_in_place_);
  const uint64_t compute_start = NowNs();
  OrtStatus* status = RunSession();
  if (status != nullptr && placed_any_) {
    // Perhaps the model declared dims that it does not keep; then it runs without fixed buffers.
    Ort().ReleaseStatus(status);
    works[0]->DropResponse();
    PlaceOutputs(works[0], false);
    status = RunSession();
    if (status == nullptr) {
      write_in_place_ = false;
      Log(TRITONSERVER_LOG_WARN, "model '" + signature_.model +
                                     "': an output's shape is not the declared one; outputs are "
                                     "copied from now on");
    }
  }
  Check(status, ("model '" + signature_.model + "': the run failed").c_str());
  const uint64_t compute_end = NowNs();
  DeliverOutputs(works, count, total);
  DeliverStates(works, count, total);
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

void BatchRun::PlaceOutputs(RequestWork* work, bool in_response) {
  outputs_.Clear();
  placed_.clear();
  placed_any_ = false;
  if (in_response) work->OpenResponse();
  for (const size_t o : chosen_) {
    const OutputSlot& slot = signature_.outputs[o];
    const bool place = in_response && slot.predictable && work->wanted[o] != 0;
    bool misaligned = false;
    OrtValue* value = place ? PlaceInResponse(work, slot, &misaligned) : nullptr;
    if (misaligned) {  // a client's shared memory may start anywhere
      work->DropResponse();
      PlaceOutputs(work, false);
      return;
    }
    outputs_.Add(value);
    placed_.push_back(value != nullptr ? 1 : 0);
    placed_any_ = placed_any_ || value != nullptr;
  }
}

// Null when there is nothing to place: no elements, or dims that no input gives.
OrtValue* BatchRun::PlaceInResponse(RequestWork* work, const OutputSlot& slot, bool* misaligned) {
  shape_.clear();
  size_t size = slot.type->byte_size;
  for (const DimSource& source : slot.dims) {
    int64_t dim = source.value;
    if (source.kind == DimSource::Kind::kBatch) dim = work->batch;
    if (source.kind == DimSource::Kind::kInput) {
      const InputView& input = work->inputs[source.input];
      if (source.dim >= input.rank) return nullptr;
      dim = input.shape[source.dim];
    }
    shape_.push_back(dim);
    if (__builtin_mul_overflow(size, static_cast<size_t>(dim), &size)) return nullptr;
  }
  if (size == 0) return nullptr;
  void* buffer = OutputBuffer(work, slot, shape_.data(), shape_.size(), size);
  *misaligned = reinterpret_cast<uintptr_t>(buffer) % slot.type->byte_size != 0;
  if (*misaligned) return nullptr;
  OrtValue* value = nullptr;
  Check(Ort().CreateTensorWithDataAsOrtValue(OrtRuntime::CpuMemory(), buffer, size, shape_.data(),
                                             shape_.size(), slot.type->ort, &value),
        "placing an output");
  return value;
}

OrtStatus* BatchRun::RunSession() {
  return Ort().Run(session_.get(), run_options_.get(), input_names_.data(), inputs_.data(),
                   inputs_.size(), output_names_.data(), output_names_.size(), outputs_.data());
}

void BatchRun::DeliverOutputs(RequestWork* const* works, size_t count, int64_t total) {
  for (size_t i = 0; i < count; ++i) works[i]->OpenResponse();
  for (size_t k = 0; k < chosen_.size(); ++k) {
    const size_t o = chosen_[k];
    bool wanted = false;
    for (size_t i = 0; i < count; ++i) wanted = wanted || works[i]->wanted[o] != 0;
    if (placed_[k] != 0 || !wanted) continue;
    scatter_.Load(signature_, signature_.outputs[o], outputs_[k], total);
    int64_t row = 0;
    for (size_t i = 0; i < count; ++i) {
      if (works[i]->wanted[o] != 0) scatter_.ToResponse(works[i], row);
      row += works[i]->batch;
    }
  }
}

void BatchRun::DeliverStates(RequestWork* const* works, size_t count, int64_t total) {
  for (size_t k = 0; k < chosen_.size(); ++k) {
    const OutputSlot& slot = signature_.outputs[chosen_[k]];
    if (!slot.is_state) continue;
    scatter_.Load(signature_, slot, outputs_[k], total);
    int64_t row = 0;
    for (size_t i = 0; i < count; ++i) {
      scatter_.ToState(works[i], row);
      row += works[i]->batch;
    }
  }
}

}  // namespace ort_backend
