#include "output_scatter.h"

#include <cstring>

#include "failure.h"

namespace ort_backend {
namespace {

void RequireCpu(TRITONSERVER_MemoryType memory, const OutputSlot& slot) {
  if (memory != TRITONSERVER_MEMORY_GPU) return;
  throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                "output '" + slot.name + "' must go to GPU memory; this backend writes CPU memory");
}

}  // namespace

void* OutputBuffer(RequestWork* work, const OutputSlot& slot, const int64_t* shape, size_t rank,
                   size_t size) {
  work->OpenResponse();
  TRITONBACKEND_Output* output = nullptr;
  Check(TRITONBACKEND_ResponseOutput(work->response, &output, slot.name.c_str(), slot.type->triton,
                                     shape, static_cast<uint32_t>(rank)),
        "adding an output");
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  Check(TRITONBACKEND_OutputBuffer(output, &buffer, size, &memory, &memory_id),
        "allocating an output");
  RequireCpu(memory, slot);
  return buffer;
}

void OutputScatter::Load(const Signature& signature, const OutputSlot& slot, OrtValue* value,
                         int64_t total) {
  if (value == value_) return;
  const auto who = [&] {
    return "model '" + signature.model + "': output '" + slot.name + "'";
  };
  int is_tensor = 0;
  Check(Ort().IsTensor(value, &is_tensor), "reading an output");
  if (is_tensor == 0) throw Failure(TRITONSERVER_ERROR_UNSUPPORTED, who() + " is not a tensor");
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  Check(Ort().GetTensorTypeAndShape(value, &raw), "reading an output's shape");
  const TensorInfoPtr info(raw);
  OrtElementType element = kOrtUndefined;
  Check(Ort().GetTensorElementType(raw, &element), "reading an output's type");
  if (element != slot.type->ort) {
    throw Failure(TRITONSERVER_ERROR_INTERNAL,
                  who() + " is not " + slot.type->config_name + " as declared");
  }
  size_t rank = 0;
  Check(Ort().GetDimensionsCount(raw, &rank), "reading an output's rank");
  shape_.resize(rank);
  Check(Ort().GetDimensions(raw, shape_.data(), rank), "reading an output's dims");
  if (signature.batched && (rank == 0 || shape_[0] != total)) {
    throw Failure(TRITONSERVER_ERROR_INTERNAL,
                  who() + " has shape " + ShapeText(shape_) + ", expected " +
                      std::to_string(total) + " rows: the model does not keep the batch dim");
  }
  if (rank == 0) shape_.assign(1, 1);  // a scalar
  slot_ = &slot;
  batched_ = signature.batched;
  row_elements_ = 1;
  for (size_t i = batched_ ? 1 : 0; i < shape_.size(); ++i) {
    row_elements_ *= static_cast<size_t>(shape_[i]);
  }
  strings_loaded_ = false;
  if (!slot.type->IsBytes()) {
    void* data = nullptr;
    Check(Ort().GetTensorMutableData(value, &data), "reading an output's data");
    data_ = static_cast<const char*>(data);
  }
  value_ = value;
}

void OutputScatter::LoadStrings() {
  const size_t rows = batched_ ? static_cast<size_t>(shape_[0]) : 1;
  const size_t count = rows * row_elements_;
  size_t size = 0;
  Check(Ort().GetStringTensorDataLength(value_, &size), "measuring strings");
  text_.resize(size);
  offsets_.resize(count + 1);
  if (count != 0) {
    char nothing = 0;
    Check(Ort().GetStringTensorContent(value_, size == 0 ? &nothing : text_.data(), size,
                                       offsets_.data(), count),
          "reading strings");
  }
  offsets_[count] = size;
  strings_loaded_ = true;
}

size_t OutputScatter::PrepareSlice(const RequestWork& work, int64_t row) {
  const size_t rows = batched_ ? static_cast<size_t>(work.batch) : 1;
  first_ = batched_ ? static_cast<size_t>(row) * row_elements_ : 0;
  last_ = first_ + rows * row_elements_;
  slice_shape_ = shape_;
  if (batched_) slice_shape_[0] = work.batch;
  if (!slot_->type->IsBytes()) return (last_ - first_) * slot_->type->byte_size;
  if (!strings_loaded_) LoadStrings();
  return (last_ - first_) * sizeof(uint32_t) + offsets_[last_] - offsets_[first_];
}

void OutputScatter::CopySlice(void* target, size_t size) const {
  if (size == 0) return;
  if (!slot_->type->IsBytes()) {
    std::memcpy(target, data_ + first_ * slot_->type->byte_size, size);
    return;
  }
  char* out = static_cast<char*>(target);
  for (size_t i = first_; i < last_; ++i) {
    const uint32_t length = static_cast<uint32_t>(offsets_[i + 1] - offsets_[i]);
    std::memcpy(out, &length, sizeof length);
    out += sizeof length;
    if (length != 0) std::memcpy(out, text_.data() + offsets_[i], length);
    out += length;
  }
}

void OutputScatter::ToResponse(RequestWork* work, int64_t row) {
  const size_t size = PrepareSlice(*work, row);
  CopySlice(OutputBuffer(work, *slot_, slice_shape_.data(), slice_shape_.size(), size), size);
}

void OutputScatter::ToState(RequestWork* work, int64_t row) {
  const size_t size = PrepareSlice(*work, row);
  TRITONBACKEND_State* state = nullptr;
  Check(TRITONBACKEND_StateNew(&state, work->request, slot_->name.c_str(), slot_->type->triton,
                               slice_shape_.data(), static_cast<uint32_t>(slice_shape_.size())),
        "creating a sequence state");
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  Check(TRITONBACKEND_StateBuffer(state, &buffer, size, &memory, &memory_id),
        "allocating a sequence state");
  RequireCpu(memory, *slot_);
  CopySlice(buffer, size);
  Check(TRITONBACKEND_StateUpdate(state), "updating a sequence state");
}

}  // namespace ort_backend
