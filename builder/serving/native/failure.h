// Errors and logging. Inside the backend an error is a thrown Failure; the entry points and the
// request loop turn it into a TRITONSERVER_Error, so that no exception ever leaves the library.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "ort_api.h"
#include "triton_api.h"

namespace ort_backend {

class Failure : public std::exception {
 public:
  Failure(TRITONSERVER_Error_Code code, std::string message)
      : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  TRITONSERVER_Error_Code code() const { return code_; }

 private:
  TRITONSERVER_Error_Code code_;
  std::string message_;
};

[[noreturn]] inline void Invalid(const std::string& message) {
  throw Failure(TRITONSERVER_ERROR_INVALID_ARG, message);
}

// Throws what `error` says, prefixed with `doing`, and frees it; does nothing when it is null.
void Check(TRITONSERVER_Error* error, const char* doing = "");
void Check(OrtStatus* status, const char* doing);

// Logs and frees `error`, for places where nothing else can be done about it.
void LogIfError(TRITONSERVER_Error* error, const char* doing);
void LogIfError(OrtStatus* status, const char* doing);

void Log(TRITONSERVER_LogLevel level, const std::string& message);

// `[2,-1,25]`
std::string ShapeText(const int64_t* dims, size_t rank);
inline std::string ShapeText(const std::vector<int64_t>& dims) {
  return ShapeText(dims.data(), dims.size());
}

// Runs `body` and returns what it threw as a Triton error, or null.
template <typename Body>
TRITONSERVER_Error* Guard(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return TRITONSERVER_ErrorNew(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "onnxruntime: out of memory");
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  } catch (...) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "onnxruntime: unknown exception");
  }
}

}  // namespace ort_backend
