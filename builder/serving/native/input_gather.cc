#include "input_gather.h"

#include <cstring>
#include <new>

#include "failure.h"

namespace ort_backend {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kKeep = size_t{16} << 20;  // scratch memory kept per input between runs

struct Buffer {
  const char* data;
  uint64_t size;
};

Buffer CpuBuffer(const InputView& view, uint32_t index, const InputSlot& slot) {
  const void* data = nullptr;
  uint64_t size = 0;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  Check(TRITONBACKEND_InputBuffer(view.handle, index, &data, &size, &memory, &memory_id),
        "reading an input buffer");
  if (memory == TRITONSERVER_MEMORY_GPU) {
    throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                  "input '" + slot.name + "' lies in GPU memory; this backend reads CPU memory");
  }
  return {static_cast<const char*>(data), size};
}

// Copies all buffers of an input to `target`, which holds `view.byte_size` bytes.
void CopyBuffers(const InputView& view, const InputSlot& slot, char* target) {
  uint64_t copied = 0;
  for (uint32_t i = 0; i < view.buffer_count; ++i) {
    const Buffer buffer = CpuBuffer(view, i, slot);
    if (buffer.size > view.byte_size - copied) Invalid("input '" + slot.name + "' is too long");
    if (buffer.size != 0) std::memcpy(target + copied, buffer.data, buffer.size);
    copied += buffer.size;
  }
  if (copied != view.byte_size) Invalid("input '" + slot.name + "' is too short");
}

uint64_t ElementCount(const InputView& view) {
  uint64_t count = 1;
  for (uint32_t i = 0; i < view.rank; ++i) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(view.shape[i]), &count)) {
      Invalid("shape " + ShapeText(view.shape, view.rank) + " is too large");
    }
  }
  return count;
}

ValuePtr WrapData(void* data, size_t size, const std::vector<int64_t>& shape, OrtElementType type) {
  // ONNX Runtime wants an address even for no elements.
  alignas(kAlignment) static char nothing[kAlignment];
  OrtValue* value = nullptr;
  Check(Ort().CreateTensorWithDataAsOrtValue(OrtRuntime::CpuMemory(), size == 0 ? nothing : data,
                                             size, shape.data(), shape.size(), type, &value),
        "wrapping an input");
  return ValuePtr(value);
}

// Reads `count` strings, each after its length in four little-endian bytes, into elements
// `first`... of `value`. Returns false unless they fill `size` bytes exactly.
bool ParseStrings(const char* text, uint64_t size, uint64_t count, size_t first, OrtValue* value) {
  for (uint64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (size < sizeof length) return false;
    std::memcpy(&length, text, sizeof length);
    text += sizeof length;
    size -= sizeof length;
    if (size < length) return false;
    char* target = nullptr;
    Check(Ort().GetResizedStringTensorElementBuffer(value, first + i, length, &target),
          "writing a string");
    if (length != 0) std::memcpy(target, text, length);
    text += length;
    size -= length;
  }
  return size == 0;
}

}  // namespace

void Scratch::Free::operator()(char* memory) const {
  ::operator delete(memory, std::align_val_t{kAlignment});
}

char* Scratch::Reserve(size_t size) {
  if (size > capacity_) {
    memory_.reset();
    capacity_ = 0;
    memory_.reset(static_cast<char*>(::operator new(size, std::align_val_t{kAlignment})));
    capacity_ = size;
  }
  return memory_.get();
}

void Scratch::Trim() {
  if (capacity_ <= kKeep) return;
  memory_.reset();
  capacity_ = 0;
}

InputGather::InputGather(const Signature& signature)
    : signature_(signature), scratch_(signature.inputs.size()) {}

ValuePtr InputGather::Gather(size_t index, RequestWork* const* works, size_t count,
                             int64_t total) {
  const InputView& view = works[0]->inputs[index];
  shape_.assign(view.shape, view.shape + view.rank);
  if (signature_.batched) shape_[0] = total;
  if (signature_.inputs[index].scalar) shape_.clear();
  return signature_.inputs[index].type->IsBytes() ? Strings(index, works, count)
                                                  : Numbers(index, works, count);
}

void InputGather::Trim() {
  for (Scratch& scratch : scratch_) scratch.Trim();
  if (text_.capacity() > kKeep) std::vector<char>().swap(text_);
}

ValuePtr InputGather::Numbers(size_t index, RequestWork* const* works, size_t count) {
  const InputSlot& slot = signature_.inputs[index];
  const InputView& only = works[0]->inputs[index];
  if (count == 1 && only.buffer_count == 1) {
    const Buffer buffer = CpuBuffer(only, 0, slot);
    // Tensors that share one message may start at odd addresses.
    const bool aligned = reinterpret_cast<uintptr_t>(buffer.data) % slot.type->byte_size == 0;
    if (aligned && buffer.size == only.byte_size) {
      return WrapData(const_cast<char*>(buffer.data), buffer.size, shape_, slot.type->ort);
    }
  }
  size_t size = 0;
  for (size_t i = 0; i < count; ++i) size += works[i]->inputs[index].byte_size;
  char* const memory = scratch_[index].Reserve(size);
  char* target = memory;
  for (size_t i = 0; i < count; ++i) {
    const InputView& view = works[i]->inputs[index];
    CopyBuffers(view, slot, target);
    target += view.byte_size;
  }
  return WrapData(memory, size, shape_, slot.type->ort);
}

ValuePtr InputGather::Strings(size_t index, RequestWork* const* works, size_t count) {
  const InputSlot& slot = signature_.inputs[index];
  // Every string takes at least its length field, which bounds the shape before it is trusted.
  for (size_t i = 0; i < count; ++i) {
    const InputView& view = works[i]->inputs[index];
    if (ElementCount(view) > view.byte_size / sizeof(uint32_t)) {
      Invalid("model '" + signature_.model + "': input '" + slot.name + "': shape " +
              ShapeText(view.shape, view.rank) + " has more strings than " +
              std::to_string(view.byte_size) + " bytes can hold");
    }
  }
  OrtValue* raw = nullptr;
  Check(Ort().CreateTensorAsOrtValue(OrtRuntime::Allocator(), shape_.data(), shape_.size(),
                                     kOrtString, &raw),
        "creating a string tensor");
  ValuePtr value(raw);
  size_t first = 0;
  for (size_t i = 0; i < count; ++i) {
    const InputView& view = works[i]->inputs[index];
    text_.resize(view.byte_size);
    CopyBuffers(view, slot, text_.data());
    const uint64_t elements = ElementCount(view);
    if (!ParseStrings(text_.data(), view.byte_size, elements, first, raw)) {
      Invalid("model '" + signature_.model + "': input '" + slot.name + "': " +
              std::to_string(view.byte_size) + " bytes are not " + std::to_string(elements) +
              " length-prefixed strings");
    }
    first += elements;
  }
  return value;
}

}  // namespace ort_backend
