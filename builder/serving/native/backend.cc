// The `onnxruntime` backend of Triton, for servers that come without the official one.
//
// It serves the same model repositories: same backend name, same config.pbtxt options, same
// behaviour towards clients. ONNX Runtime is not linked but opened at run time (ort_runtime), so
// one build works with every onnxruntime wheel from 1.15 on; the server's own symbols are resolved
// from the server process (triton_api.h).
//
// Loading. The server calls ModelInitialize per model version: ModelState reads the configuration
// (model_config, settings), opens the ONNX file (session), completes what the configuration leaves
// out (auto_complete), and joins both into a Signature (signature), which finds every disagreement
// between file and configuration. ModelInstanceInitialize then gives each instance a session.
//
// Serving. ModelInstanceExecute hands an instance some requests (instance_state). Each is read and
// checked (request); those of equal dims run together (batch_run): inputs are used in place or
// concatenated along the batch dim (input_gather), outputs are written straight into the response
// when their shape is known before the run, else split among the responses, and the states of
// sequences go back to the server (output_scatter). When a batch fails its requests are run one by
// one, so that a bad request fails alone. Statistics are reported before the response is sent.
//
// Threads. The server never calls one instance twice at a time but calls different instances at
// once; everything mutable in the hot path therefore belongs to the instance. The environment, the
// signature and shared sessions are only read.
//
// Errors. Code in here throws Failure; the functions below turn whatever is thrown into a
// TRITONSERVER_Error (failure), so nothing that a model or a request does can take the server down.
#include "failure.h"
#include "instance_state.h"
#include "model_state.h"
#include "ort_runtime.h"

using namespace ort_backend;

#define BACKEND_EXPORT __attribute__((visibility("default"))) TRITONSERVER_Error*

extern "C" {

BACKEND_EXPORT TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return Guard([&] {
    uint32_t major = 0;
    uint32_t minor = 0;
    Check(TRITONBACKEND_ApiVersion(&major, &minor), "reading the backend API version");
    // 1.16 is the first with request cancellation.
    if (major != 1 || minor < 16) {
      throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                    "the server has backend API " + std::to_string(major) + "." +
                        std::to_string(minor) + ", this backend needs 1.16 or later of 1.x");
    }
    TRITONSERVER_Message* message = nullptr;  // borrowed
    Check(TRITONBACKEND_BackendConfig(backend, &message), "reading the backend configuration");
    const char* base = nullptr;
    size_t size = 0;
    Check(TRITONSERVER_MessageSerializeToJson(message, &base, &size),
          "reading the backend configuration");
    TRITONBACKEND_ArtifactType type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    const char* directory = nullptr;
    Check(TRITONBACKEND_BackendArtifacts(backend, &type, &directory), "locating the backend");
    OrtRuntime::Start(BackendSettings::Read(Json::Parse({base, size}), directory));
  });
}

BACKEND_EXPORT TRITONBACKEND_Finalize(TRITONBACKEND_Backend*) {
  return Guard([] { OrtRuntime::Stop(); });
}

BACKEND_EXPORT TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend*,
                                                 TRITONBACKEND_BackendAttribute* attributes) {
  return Guard([&] {
    // Without a kind in the configuration the server would choose the GPU wherever there is one.
    if (OrtRuntime::HasProvider("CUDAExecutionProvider")) {
      Check(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
                attributes, TRITONSERVER_INSTANCEGROUPKIND_GPU, 0, nullptr, 0),
            "preferring GPU instances");
    }
    Check(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
              attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 0, nullptr, 0),
          "preferring CPU instances");
    Check(TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true),
          "allowing instances to load in parallel");
  });
}

BACKEND_EXPORT TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return Guard([&] {
    auto state = std::make_unique<ModelState>(model);
    Check(TRITONBACKEND_ModelSetState(model, state.get()), "keeping the model state");
    state.release();
  });
}

BACKEND_EXPORT TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return Guard([&] {
    void* state = nullptr;
    Check(TRITONBACKEND_ModelState(model, &state), "reading the model state");
    delete static_cast<ModelState*>(state);
  });
}

BACKEND_EXPORT TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return Guard([&] {
    TRITONBACKEND_Model* model = nullptr;
    Check(TRITONBACKEND_ModelInstanceModel(instance, &model), "reading the instance's model");
    void* model_state = nullptr;
    Check(TRITONBACKEND_ModelState(model, &model_state), "reading the model state");
    TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
    Check(TRITONBACKEND_ModelInstanceKind(instance, &kind), "reading the instance's kind");
    Device device;
    device.gpu = kind == TRITONSERVER_INSTANCEGROUPKIND_GPU;
    if (device.gpu) {
      Check(TRITONBACKEND_ModelInstanceDeviceId(instance, &device.id), "reading the device");
    }
    auto state =
        std::make_unique<InstanceState>(instance, static_cast<ModelState*>(model_state), device);
    Check(TRITONBACKEND_ModelInstanceSetState(instance, state.get()), "keeping the instance state");
    state.release();
  });
}

BACKEND_EXPORT TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  return Guard([&] {
    void* state = nullptr;
    Check(TRITONBACKEND_ModelInstanceState(instance, &state), "reading the instance state");
    delete static_cast<InstanceState*>(state);
  });
}

// Returning an error would leave the requests with the server, so only what comes before the first
// answer may fail here.
BACKEND_EXPORT TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                  TRITONBACKEND_Request** requests,
                                                  uint32_t count) {
  InstanceState* state = nullptr;
  TRITONSERVER_Error* error = Guard([&] {
    void* pointer = nullptr;
    Check(TRITONBACKEND_ModelInstanceState(instance, &pointer), "reading the instance state");
    state = static_cast<InstanceState*>(pointer);
    state->Reserve(count);
  });
  if (error != nullptr) return error;
  state->Execute(requests, count);
  return nullptr;
}

}  // extern "C"
