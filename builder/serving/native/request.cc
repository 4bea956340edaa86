#include "request.h"

#include <algorithm>
#include <chrono>

#include "failure.h"

namespace ort_backend {
namespace {

// The bytes of a tensor of fixed-size elements, or false when that overflows.
bool TensorBytes(const InputView& view, uint32_t element_size, uint64_t* bytes) {
  *bytes = element_size;
  for (uint32_t i = 0; i < view.rank; ++i) {
    if (__builtin_mul_overflow(*bytes, static_cast<uint64_t>(view.shape[i]), bytes)) return false;
  }
  return true;
}

class Reader {
 public:
  Reader(RequestWork* work, const Signature& signature) : work_(*work), signature_(signature) {}

  void ReadInputs() {
    work_.inputs.clear();
    bool first = true;
    for (const InputSlot& slot : signature_.inputs) {
      InputView view{};
      TRITONSERVER_Error* error =
          TRITONBACKEND_RequestInput(work_.request, slot.name.c_str(), &view.handle);
      if (error != nullptr) {
        if (!slot.optional) Check(error, Prefix(slot).c_str());
        TRITONSERVER_ErrorDelete(error);
        view.handle = nullptr;
      } else {
        ReadProperties(slot, &view);
        if (signature_.batched) CheckBatch(slot, view, &first);
      }
      work_.inputs.push_back(view);
    }
  }

  void ReadOutputs() {
    work_.wanted.assign(signature_.outputs.size(), 0);
    uint32_t count = 0;
    Check(TRITONBACKEND_RequestOutputCount(work_.request, &count), "counting requested outputs");
    for (uint32_t i = 0; i < count; ++i) {
      const char* name = nullptr;
      Check(TRITONBACKEND_RequestOutputName(work_.request, i, &name), "reading a requested output");
      size_t at = 0;
      while (at < signature_.outputs.size() && signature_.outputs[at].name != name) ++at;
      if (at == signature_.outputs.size()) {
        Invalid("model '" + signature_.model + "' has no output '" + name + "'");
      }
      work_.wanted[at] = 1;
    }
  }

 private:
  std::string Prefix(const InputSlot& slot) const {
    return "model '" + signature_.model + "': input '" + slot.name + "'";
  }

  void ReadProperties(const InputSlot& slot, InputView* view) const {
    TRITONSERVER_DataType dtype = TRITONSERVER_TYPE_INVALID;
    Check(TRITONBACKEND_InputProperties(view->handle, nullptr, &dtype, &view->shape, &view->rank,
                                        &view->byte_size, &view->buffer_count),
          "reading an input");
    if (dtype != slot.type->triton) {
      Invalid(Prefix(slot) + ": expected " + slot.type->config_name + ", got " +
              DataTypeName(dtype));
    }
    bool fits = !slot.check_dims || view->rank == slot.dims.size();
    for (uint32_t i = 0; fits && i < view->rank; ++i) {
      fits = view->shape[i] >= 0 &&
             (!slot.check_dims || slot.dims[i] == -1 || slot.dims[i] == view->shape[i]);
    }
    if (!fits) {
      Invalid(Prefix(slot) + ": expected shape " + ShapeText(slot.dims) + ", got " +
              ShapeText(view->shape, view->rank));
    }
    if (slot.type->IsBytes()) return;  // checked element by element
    uint64_t expected = 0;
    if (!TensorBytes(*view, slot.type->byte_size, &expected) || expected != view->byte_size) {
      Invalid(Prefix(slot) + ": shape " + ShapeText(view->shape, view->rank) + " needs " +
              std::to_string(expected) + " bytes, got " + std::to_string(view->byte_size));
    }
  }

  void CheckBatch(const InputSlot& slot, const InputView& view, bool* first) {
    const int64_t rows = view.rank == 0 ? -1 : view.shape[0];
    if (*first) work_.batch = rows;
    *first = false;
    if (rows < 0 || rows != work_.batch) {
      Invalid(Prefix(slot) + ": its batch dim differs from that of input '" +
              signature_.inputs[0].name + "', shape " + ShapeText(view.shape, view.rank));
    }
  }

  RequestWork& work_;
  const Signature& signature_;
};

}  // namespace

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

void RequestWork::Begin(TRITONBACKEND_Request* new_request) {
  request = new_request;
  response = nullptr;
  error = nullptr;
  done = false;
  batch = 1;
}

void RequestWork::Read(const Signature& signature) {
  bool cancelled = false;
  Check(TRITONBACKEND_RequestIsCancelled(request, &cancelled), "asking for cancellation");
  if (cancelled) {
    throw Failure(TRITONSERVER_ERROR_CANCELLED,
                  "model '" + signature.model + "': the request was cancelled before it ran");
  }
  Reader reader(this, signature);
  reader.ReadInputs();
  reader.ReadOutputs();
}

bool RequestWork::FitsWith(const RequestWork& other, const Signature& signature) const {
  if (!signature.batched) return false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const InputView& mine = inputs[i];
    const InputView& theirs = other.inputs[i];
    if ((mine.handle == nullptr) != (theirs.handle == nullptr)) return false;
    if (mine.handle == nullptr) continue;
    if (mine.rank != theirs.rank ||
        !std::equal(mine.shape + 1, mine.shape + mine.rank, theirs.shape + 1)) {
      return false;
    }
  }
  return true;
}

void RequestWork::OpenResponse() {
  if (response != nullptr) return;
  Check(TRITONBACKEND_ResponseNew(&response, request), "opening a response");
}

void RequestWork::Finish(TRITONBACKEND_ModelInstance* instance) {
  done = true;
  LogIfError(TRITONBACKEND_ModelInstanceReportStatistics(
                 instance, request, error == nullptr, times.exec_start, times.compute_start,
                 times.compute_end, times.exec_end),
             "reporting request statistics");
  if (response == nullptr) {
    LogIfError(TRITONBACKEND_ResponseNew(&response, request), "opening an error response");
  }
  if (response != nullptr) {
    LogIfError(
        TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error),
        "sending a response");
    response = nullptr;
  }
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
  error = nullptr;
  LogIfError(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL),
             "releasing a request");
}

}  // namespace ort_backend
