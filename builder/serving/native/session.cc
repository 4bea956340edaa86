#include "session.h"

#include <filesystem>

#include "failure.h"

namespace ort_backend {
namespace {

struct KeyValues {
  std::vector<const char*> keys;
  std::vector<const char*> values;

  explicit KeyValues(const Options& options) {
    for (const auto& [key, value] : options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
  }
};

void RequireProvider(const std::string& name, const std::string& why) {
  if (OrtRuntime::HasProvider(name)) return;
  throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                why + " needs the " + name +
                    ", which the loaded ONNX Runtime library was built without; load a build that "
                    "has it with --backend-config=onnxruntime,library=<path>, or use "
                    "instance_group { kind: KIND_CPU }");
}

// The deprecated parameters are numbers where the provider's options are words.
std::string CudaValue(const std::string& key, const std::string& value) {
  static constexpr struct {
    const char* key;
    const char* number;
    const char* word;
  } kWords[] = {
      {"cudnn_conv_algo_search", "0", "EXHAUSTIVE"},
      {"cudnn_conv_algo_search", "1", "HEURISTIC"},
      {"cudnn_conv_algo_search", "2", "DEFAULT"},
      {"arena_extend_strategy", "0", "kNextPowerOfTwo"},
      {"arena_extend_strategy", "1", "kSameAsRequested"},
  };
  for (const auto& entry : kWords) {
    if (key == entry.key && value == entry.number) return entry.word;
  }
  return value;
}

void AppendCuda(OrtSessionOptions* options, const Options& settings, const Device& device) {
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  Check(Ort().CreateCUDAProviderOptions(&cuda), "creating CUDA options");
  const CudaOptionsPtr owner(cuda);
  Options all = {{"device_id", std::to_string(device.id)}};
  for (const auto& [key, value] : settings) all.emplace_back(key, CudaValue(key, value));
  const KeyValues pairs(all);
  Check(Ort().UpdateCUDAProviderOptions(cuda, pairs.keys.data(), pairs.values.data(), all.size()),
        "setting CUDA options");
  Check(Ort().SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda),
        "adding the CUDA execution provider");
}

// The names of the model configuration differ from those of the execution provider in a few places.
Options TensorRtOptions(const Options& settings, const Device& device) {
  Options options = {{"device_id", std::to_string(device.id)}};
  for (const auto& [key, value] : settings) {
    if (key == "precision_mode") {
      if (value == "FP16") options.emplace_back("trt_fp16_enable", "1");
      if (value == "INT8") options.emplace_back("trt_int8_enable", "1");
    } else if (key.rfind("trt_", 0) == 0) {
      options.emplace_back(key, value);
    } else if (key == "max_workspace_size_bytes") {
      options.emplace_back("trt_max_workspace_size", value);
    } else {
      options.emplace_back("trt_" + key, value);
    }
  }
  return options;
}

void AppendTensorRt(OrtSessionOptions* options, const Options& settings, const Device& device) {
  OrtTensorRTProviderOptionsV2* tensorrt = nullptr;
  Check(Ort().CreateTensorRTProviderOptions(&tensorrt), "creating TensorRT options");
  const TensorRtOptionsPtr owner(tensorrt);
  const Options all = TensorRtOptions(settings, device);
  const KeyValues pairs(all);
  Check(Ort().UpdateTensorRTProviderOptions(tensorrt, pairs.keys.data(), pairs.values.data(),
                                            all.size()),
        "setting TensorRT options");
  Check(Ort().SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt),
        "adding the TensorRT execution provider");
}

void AppendProviders(OrtSessionOptions* options, const ModelConfig& config,
                     const SessionSettings& settings, const Device& device) {
  const std::string who = "model '" + config.name + "': ";
  if (!device.gpu) {
    if (settings.cpu_accelerators.empty()) return;
    throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                  who + "cpu_execution_accelerator '" + settings.cpu_accelerators[0].name +
                      "' is not supported; remove it to run on the CPU execution provider");
  }
  Options cuda = settings.cuda_options;
  for (const Accelerator& accelerator : settings.gpu_accelerators) {
    if (accelerator.name == "tensorrt") {
      RequireProvider("TensorrtExecutionProvider", who + "gpu_execution_accelerator 'tensorrt'");
      AppendTensorRt(options, accelerator.options, device);
    } else if (accelerator.name == "cuda") {
      cuda.insert(cuda.end(), accelerator.options.begin(), accelerator.options.end());
    } else {
      throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                    who + "unknown gpu_execution_accelerator '" + accelerator.name +
                        "'; known are cuda and tensorrt");
    }
  }
  RequireProvider("CUDAExecutionProvider", who + "an instance of KIND_GPU");
  AppendCuda(options, cuda, device);
}

// As given when absolute; else beside the model's versions when it is there, else for the loader.
std::string OperatorLibrary(const ModelConfig& config, const std::string& name) {
  const std::filesystem::path path(name);
  if (path.is_absolute()) return name;
  std::error_code ignored;
  for (const auto& folder : {std::filesystem::path(config.path).parent_path(),
                             std::filesystem::path(config.repository)}) {
    if (std::filesystem::exists(folder / path, ignored)) return (folder / path).string();
  }
  return name;
}

void ApplyThreads(OrtSessionOptions* options, const SessionSettings& settings) {
  if (OrtRuntime::Settings().global_thread_pool) {
    Check(Ort().DisablePerSessionThreads(options), "using the global thread pool");
    return;
  }
  Check(Ort().SetIntraOpNumThreads(options, settings.intra_op_threads), "setting intra-op threads");
  Check(Ort().SetInterOpNumThreads(options, settings.inter_op_threads), "setting inter-op threads");
  // Idle pools that spin take the cores from the server's own threads and from other instances:
  // two threads on two busy cores answered 1.6 to 2 times as many requests without. A parameter
  // `session.intra_op.allow_spinning` overrules this.
  for (const char* key : {"session.intra_op.allow_spinning", "session.inter_op.allow_spinning"}) {
    Check(Ort().AddSessionConfigEntry(options, key, "0"), "turning spinning off");
  }
}

SessionOptionsPtr NewOptions(const ModelConfig& config, const SessionSettings& settings,
                             const Device& device) {
  OrtSessionOptions* options = nullptr;
  Check(Ort().CreateSessionOptions(&options), "creating session options");
  SessionOptionsPtr owner(options);
  Check(Ort().SetSessionLogId(options, config.name.c_str()), "naming the session");
  Check(Ort().SetSessionGraphOptimizationLevel(options, settings.graph_level),
        "setting the graph optimization level");
  Check(Ort().SetSessionExecutionMode(options, settings.execution_mode),
        "setting the execution mode");
  ApplyThreads(options, settings);
  if (settings.mem_arena >= 0) {
    Check(settings.mem_arena == 1 ? Ort().EnableCpuMemArena(options)
                                  : Ort().DisableCpuMemArena(options),
          "setting the memory arena");
  }
  if (settings.mem_pattern >= 0) {
    Check(settings.mem_pattern == 1 ? Ort().EnableMemPattern(options)
                                    : Ort().DisableMemPattern(options),
          "setting the memory pattern");
  }
  for (const auto& [key, value] : settings.session_entries) {
    Check(Ort().AddSessionConfigEntry(options, key.c_str(), value.c_str()),
          ("setting " + key).c_str());
  }
  for (const std::string& library : settings.op_libraries) {
    try {
      OrtRuntime::RegisterOperators(options, OperatorLibrary(config, library));
    } catch (const Failure& failure) {
      throw Failure(failure.code(), "model '" + config.name + "': " + failure.what());
    }
  }
  AppendProviders(options, config, settings, device);
  return owner;
}

}  // namespace

SessionPtr OpenSession(const ModelConfig& config, const SessionSettings& settings,
                       const Device& device) {
  const SessionOptionsPtr options = NewOptions(config, settings, device);
  OrtSession* session = nullptr;
  OrtStatus* status =
      Ort().CreateSession(OrtRuntime::Env(), config.path.c_str(), options.get(), &session);
  if (status != nullptr) {
    std::error_code ignored;
    const std::string message = Ort().GetErrorMessage(status);
    std::string what = "model '" + config.name + "': cannot load '" + config.path + "' (" +
                       std::to_string(std::filesystem::file_size(config.path, ignored)) +
                       " bytes)";
    if (message.find("rotobuf") != std::string::npos ||
        message.find("does not have a graph") != std::string::npos) {
      what += ", the file is damaged, truncated or not ONNX: export it again";
    }
    Check(status, what.c_str());
  }
  return SessionPtr(session);
}

RunOptionsPtr NewRunOptions(const SessionSettings& settings) {
  if (settings.arena_shrinkage.empty()) return nullptr;
  OrtRunOptions* options = nullptr;
  Check(Ort().CreateRunOptions(&options), "creating run options");
  RunOptionsPtr owner(options);
  Check(Ort().AddRunConfigEntry(options, "memory.enable_memory_arena_shrinkage",
                                settings.arena_shrinkage.c_str()),
        "setting the arena shrinkage");
  return owner;
}

}  // namespace ort_backend
