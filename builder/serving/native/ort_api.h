// The part of ONNX Runtime's C API that this backend calls, declared by hand. OrtApi is an
// append-only table of function pointers, so a function is its slot number. The numbers are those
// of API version 15 (onnxruntime 1.15) and hold for every later release.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtEnv;
struct OrtStatus;
struct OrtMemoryInfo;
struct OrtSession;
struct OrtValue;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtThreadingOptions;
struct OrtAllocator;
struct OrtTensorRTProviderOptionsV2;
struct OrtCUDAProviderOptionsV2;

constexpr uint32_t kOrtApiVersion = 15;

enum OrtElementType : int {
  kOrtUndefined = 0,
  kOrtFloat = 1,
  kOrtUint8 = 2,
  kOrtInt8 = 3,
  kOrtUint16 = 4,
  kOrtInt16 = 5,
  kOrtInt32 = 6,
  kOrtInt64 = 7,
  kOrtString = 8,
  kOrtBool = 9,
  kOrtFloat16 = 10,
  kOrtDouble = 11,
  kOrtUint32 = 12,
  kOrtUint64 = 13,
  kOrtBfloat16 = 16
};

enum OrtErrorCode : int {
  kOrtInvalidArgument = 2,
  kOrtNoSuchFile = 3,
  kOrtInvalidProtobuf = 7,
  kOrtNotImplemented = 9,
  kOrtInvalidGraph = 10
};

enum OrtLoggingLevel : int {
  kOrtLogVerbose = 0,
  kOrtLogInfo = 1,
  kOrtLogWarning = 2,
  kOrtLogError = 3,
  kOrtLogFatal = 4
};

enum OrtGraphLevel : int {
  kOrtDisableAll = 0,
  kOrtEnableBasic = 1,
  kOrtEnableExtended = 2,
  kOrtEnableAll = 99
};

constexpr int kOrtTypeTensor = 1;
constexpr int kOrtArenaAllocator = 1;
constexpr int kOrtMemTypeDefault = 0;

using OrtLogFn = void (*)(void* param, OrtLoggingLevel severity, const char* category,
                          const char* logid, const char* location, const char* message);

// X(slot, return type, name, arguments)
#define ORT_FUNCTIONS(X)                                                                         \
  X(1, OrtErrorCode, GetErrorCode, (const OrtStatus*))                                           \
  X(2, const char*, GetErrorMessage, (const OrtStatus*))                                         \
  X(4, OrtStatus*, CreateEnvWithCustomLogger,                                                    \
    (OrtLogFn, void* param, OrtLoggingLevel, const char* logid, OrtEnv**))                       \
  X(7, OrtStatus*, CreateSession,                                                                \
    (const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**))                   \
  X(9, OrtStatus*, Run,                                                                          \
    (OrtSession*, const OrtRunOptions*, const char* const* input_names,                          \
     const OrtValue* const* inputs, size_t input_count, const char* const* output_names,         \
     size_t output_count, OrtValue** outputs))                                                   \
  X(10, OrtStatus*, CreateSessionOptions, (OrtSessionOptions**))                                 \
  X(13, OrtStatus*, SetSessionExecutionMode, (OrtSessionOptions*, int mode))                     \
  X(16, OrtStatus*, EnableMemPattern, (OrtSessionOptions*))                                      \
  X(17, OrtStatus*, DisableMemPattern, (OrtSessionOptions*))                                     \
  X(18, OrtStatus*, EnableCpuMemArena, (OrtSessionOptions*))                                     \
  X(19, OrtStatus*, DisableCpuMemArena, (OrtSessionOptions*))                                    \
  X(20, OrtStatus*, SetSessionLogId, (OrtSessionOptions*, const char* logid))                    \
  X(23, OrtStatus*, SetSessionGraphOptimizationLevel, (OrtSessionOptions*, OrtGraphLevel))       \
  X(24, OrtStatus*, SetIntraOpNumThreads, (OrtSessionOptions*, int))                             \
  X(25, OrtStatus*, SetInterOpNumThreads, (OrtSessionOptions*, int))                             \
  X(29, OrtStatus*, RegisterCustomOpsLibrary, (OrtSessionOptions*, const char* path, void**))    \
  X(30, OrtStatus*, SessionGetInputCount, (const OrtSession*, size_t*))                          \
  X(31, OrtStatus*, SessionGetOutputCount, (const OrtSession*, size_t*))                         \
  X(32, OrtStatus*, SessionGetOverridableInitializerCount, (const OrtSession*, size_t*))         \
  X(33, OrtStatus*, SessionGetInputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))         \
  X(34, OrtStatus*, SessionGetOutputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))        \
  X(35, OrtStatus*, SessionGetOverridableInitializerTypeInfo,                                    \
    (const OrtSession*, size_t, OrtTypeInfo**))                                                  \
  X(36, OrtStatus*, SessionGetInputName, (const OrtSession*, size_t, OrtAllocator*, char**))     \
  X(37, OrtStatus*, SessionGetOutputName, (const OrtSession*, size_t, OrtAllocator*, char**))    \
  X(38, OrtStatus*, SessionGetOverridableInitializerName,                                        \
    (const OrtSession*, size_t, OrtAllocator*, char**))                                          \
  X(39, OrtStatus*, CreateRunOptions, (OrtRunOptions**))                                         \
  X(48, OrtStatus*, CreateTensorAsOrtValue,                                                      \
    (OrtAllocator*, const int64_t* shape, size_t rank, OrtElementType, OrtValue**))              \
  X(49, OrtStatus*, CreateTensorWithDataAsOrtValue,                                              \
    (const OrtMemoryInfo*, void* data, size_t size, const int64_t* shape, size_t rank,           \
     OrtElementType, OrtValue**))                                                                \
  X(50, OrtStatus*, IsTensor, (const OrtValue*, int*))                                           \
  X(51, OrtStatus*, GetTensorMutableData, (OrtValue*, void**))                                   \
  X(53, OrtStatus*, GetStringTensorDataLength, (const OrtValue*, size_t*))                       \
  X(54, OrtStatus*, GetStringTensorContent,                                                      \
    (const OrtValue*, void* text, size_t size, size_t* offsets, size_t count))                   \
  X(55, OrtStatus*, CastTypeInfoToTensorInfo,                                                    \
    (const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**))                                     \
  X(56, OrtStatus*, GetOnnxTypeFromTypeInfo, (const OrtTypeInfo*, int*))                         \
  X(60, OrtStatus*, GetTensorElementType, (const OrtTensorTypeAndShapeInfo*, OrtElementType*))   \
  X(61, OrtStatus*, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo*, size_t*))             \
  X(62, OrtStatus*, GetDimensions, (const OrtTensorTypeAndShapeInfo*, int64_t*, size_t))         \
  X(63, OrtStatus*, GetSymbolicDimensions,                                                       \
    (const OrtTensorTypeAndShapeInfo*, const char**, size_t))                                    \
  X(65, OrtStatus*, GetTensorTypeAndShape, (const OrtValue*, OrtTensorTypeAndShapeInfo**))       \
  X(69, OrtStatus*, CreateCpuMemoryInfo, (int allocator, int memory, OrtMemoryInfo**))           \
  X(76, OrtStatus*, AllocatorFree, (OrtAllocator*, void*))                                       \
  X(78, OrtStatus*, GetAllocatorWithDefaultOptions, (OrtAllocator**))                            \
  X(92, void, ReleaseEnv, (OrtEnv*))                                                             \
  X(93, void, ReleaseStatus, (OrtStatus*))                                                       \
  X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo*))                                               \
  X(95, void, ReleaseSession, (OrtSession*))                                                     \
  X(96, void, ReleaseValue, (OrtValue*))                                                         \
  X(97, void, ReleaseRunOptions, (OrtRunOptions*))                                               \
  X(98, void, ReleaseTypeInfo, (OrtTypeInfo*))                                                   \
  X(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo*))                       \
  X(100, void, ReleaseSessionOptions, (OrtSessionOptions*))                                      \
  X(120, OrtStatus*, DisablePerSessionThreads, (OrtSessionOptions*))                             \
  X(121, OrtStatus*, CreateThreadingOptions, (OrtThreadingOptions**))                            \
  X(122, void, ReleaseThreadingOptions, (OrtThreadingOptions*))                                  \
  X(125, OrtStatus*, GetAvailableProviders, (char*** names, int* count))                         \
  X(126, OrtStatus*, ReleaseAvailableProviders, (char** names, int count))                       \
  X(130, OrtStatus*, AddSessionConfigEntry,                                                      \
    (OrtSessionOptions*, const char* key, const char* value))                                    \
  X(147, OrtStatus*, SetGlobalIntraOpNumThreads, (OrtThreadingOptions*, int))                    \
  X(148, OrtStatus*, SetGlobalInterOpNumThreads, (OrtThreadingOptions*, int))                    \
  X(149, OrtStatus*, SetGlobalSpinControl, (OrtThreadingOptions*, int allow))                    \
  X(151, OrtStatus*, CreateEnvWithCustomLoggerAndGlobalThreadPools,                              \
    (OrtLogFn, void* param, OrtLoggingLevel, const char* logid, const OrtThreadingOptions*,      \
     OrtEnv**))                                                                                  \
  X(165, OrtStatus*, AddRunConfigEntry, (OrtRunOptions*, const char* key, const char* value))    \
  X(170, OrtStatus*, SessionOptionsAppendExecutionProvider_TensorRT_V2,                          \
    (OrtSessionOptions*, const OrtTensorRTProviderOptionsV2*))                                   \
  X(171, OrtStatus*, CreateTensorRTProviderOptions, (OrtTensorRTProviderOptionsV2**))            \
  X(172, OrtStatus*, UpdateTensorRTProviderOptions,                                              \
    (OrtTensorRTProviderOptionsV2*, const char* const* keys, const char* const* values, size_t)) \
  X(174, void, ReleaseTensorRTProviderOptions, (OrtTensorRTProviderOptionsV2*))                  \
  X(204, OrtStatus*, SessionOptionsAppendExecutionProvider_CUDA_V2,                              \
    (OrtSessionOptions*, const OrtCUDAProviderOptionsV2*))                                       \
  X(205, OrtStatus*, CreateCUDAProviderOptions, (OrtCUDAProviderOptionsV2**))                    \
  X(206, OrtStatus*, UpdateCUDAProviderOptions,                                                  \
    (OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values, size_t))     \
  X(208, void, ReleaseCUDAProviderOptions, (OrtCUDAProviderOptionsV2*))                          \
  X(252, OrtStatus*, GetResizedStringTensorElementBuffer,                                        \
    (OrtValue*, size_t index, size_t size, char** buffer))

struct OrtFunctions {
#define ORT_DECLARE(slot, result, name, args) result(*name) args;
  ORT_FUNCTIONS(ORT_DECLARE)
#undef ORT_DECLARE
};

// The one exported symbol, OrtGetApiBase, returns a pointer to this.
struct OrtApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
