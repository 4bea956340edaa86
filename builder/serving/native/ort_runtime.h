// The ONNX Runtime library: found and opened at run time, one environment for the whole process.
#pragma once

#include <memory>
#include <string>

#include "ort_api.h"
#include "settings.h"

namespace ort_backend {

// The functions of the opened library. Valid from OrtRuntime::Start on.
const OrtFunctions& Ort();

class OrtRuntime {
 public:
  // Opens the library that `settings` name and creates the environment. Throws a Failure that says
  // where it looked when there is none. The library stays open for the life of the process: its
  // thread-local and static state does not survive being unloaded.
  static void Start(const BackendSettings& settings);
  static void Stop();

  static const OrtEnv* Env();
  static OrtAllocator* Allocator();          // plain CPU memory, no arena
  static const OrtMemoryInfo* CpuMemory();
  static const BackendSettings& Settings();
  static bool HasProvider(const std::string& name);

  // Adds the operators of the shared library `path` to `options`. A library with undefined Python
  // symbols (onnxruntime-extensions) gets libpython opened globally first; no interpreter starts.
  static void RegisterOperators(OrtSessionOptions* options, const std::string& path);
};

// Owning pointers to ONNX Runtime's objects.
template <typename T, void (*OrtFunctions::*Release)(T*)>
struct OrtRelease {
  void operator()(T* object) const { (Ort().*Release)(object); }
};
template <typename T, void (*OrtFunctions::*Release)(T*)>
using OrtPtr = std::unique_ptr<T, OrtRelease<T, Release>>;

using SessionPtr = OrtPtr<OrtSession, &OrtFunctions::ReleaseSession>;
using SessionOptionsPtr = OrtPtr<OrtSessionOptions, &OrtFunctions::ReleaseSessionOptions>;
using ValuePtr = OrtPtr<OrtValue, &OrtFunctions::ReleaseValue>;
using RunOptionsPtr = OrtPtr<OrtRunOptions, &OrtFunctions::ReleaseRunOptions>;
using TypeInfoPtr = OrtPtr<OrtTypeInfo, &OrtFunctions::ReleaseTypeInfo>;
using TensorInfoPtr =
    OrtPtr<OrtTensorTypeAndShapeInfo, &OrtFunctions::ReleaseTensorTypeAndShapeInfo>;
using ThreadingOptionsPtr = OrtPtr<OrtThreadingOptions, &OrtFunctions::ReleaseThreadingOptions>;
using CudaOptionsPtr = OrtPtr<OrtCUDAProviderOptionsV2, &OrtFunctions::ReleaseCUDAProviderOptions>;
using TensorRtOptionsPtr =
    OrtPtr<OrtTensorRTProviderOptionsV2, &OrtFunctions::ReleaseTensorRTProviderOptions>;

}  // namespace ort_backend
