#include "failure.h"

#include "ort_runtime.h"

namespace ort_backend {
namespace {

std::string Prefixed(const char* doing, const char* message) {
  return *doing == '\0' ? std::string(message) : std::string(doing) + ": " + message;
}

TRITONSERVER_Error_Code CodeOf(OrtErrorCode code) {
  switch (code) {
    case kOrtInvalidArgument:
    case kOrtInvalidProtobuf:
    case kOrtInvalidGraph:
      return TRITONSERVER_ERROR_INVALID_ARG;
    case kOrtNoSuchFile:
      return TRITONSERVER_ERROR_NOT_FOUND;
    case kOrtNotImplemented:
      return TRITONSERVER_ERROR_UNSUPPORTED;
  }
  return TRITONSERVER_ERROR_INTERNAL;
}

}  // namespace

void Check(TRITONSERVER_Error* error, const char* doing) {
  if (error == nullptr) return;
  Failure failure(TRITONSERVER_ErrorCode(error), Prefixed(doing, TRITONSERVER_ErrorMessage(error)));
  TRITONSERVER_ErrorDelete(error);
  throw failure;
}

void Check(OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  Failure failure(CodeOf(Ort().GetErrorCode(status)),
                  Prefixed(doing, Ort().GetErrorMessage(status)));
  Ort().ReleaseStatus(status);
  throw failure;
}

void LogIfError(TRITONSERVER_Error* error, const char* doing) {
  if (error == nullptr) return;
  Log(TRITONSERVER_LOG_ERROR, Prefixed(doing, TRITONSERVER_ErrorMessage(error)));
  TRITONSERVER_ErrorDelete(error);
}

void LogIfError(OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  Log(TRITONSERVER_LOG_ERROR, Prefixed(doing, Ort().GetErrorMessage(status)));
  Ort().ReleaseStatus(status);
}

void Log(TRITONSERVER_LogLevel level, const std::string& message) {
  if (!TRITONSERVER_LogIsEnabled(level)) return;
  TRITONSERVER_Error* error =
      TRITONSERVER_LogMessage(level, "onnxruntime", 0, message.c_str());
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

std::string ShapeText(const int64_t* dims, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i != 0) text += ',';
    text += std::to_string(dims[i]);
  }
  return text + ']';
}

}  // namespace ort_backend
