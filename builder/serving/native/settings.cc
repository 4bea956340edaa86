#include "settings.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "failure.h"

namespace ort_backend {
namespace {

bool ParseFlag(const std::string& text, const std::string& what) {
  if (text == "1" || text == "true") return true;
  if (text == "0" || text == "false") return false;
  Invalid(what + ": expected 0, 1, true or false, got '" + text + "'");
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

OrtGraphLevel GraphLevel(int64_t level, const std::string& model) {
  switch (level) {
    case -1:
      return kOrtEnableBasic;
    case 0:
      return kOrtEnableAll;
    case 1:
      return kOrtEnableExtended;
    case 2:
      return kOrtDisableAll;
  }
  Invalid("model '" + model + "': optimization.graph.level must be -1 (basic), 0 (all), "
          "1 (extended) or 2 (none), got " + std::to_string(level));
}

std::vector<Accelerator> Accelerators(const Json& list) {
  std::vector<Accelerator> result;
  for (const Json& item : list.items()) {
    Accelerator accelerator{item["name"].AsText(), {}};
    for (const auto& [key, value] : item["parameters"].members()) {
      accelerator.options.emplace_back(key, value.AsText());
    }
    result.push_back(std::move(accelerator));
  }
  return result;
}

}  // namespace

int ParseInt(const std::string& text, int least, const std::string& what) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < least) {
    Invalid(what + ": expected an integer of at least " + std::to_string(least) + ", got '" +
            text + "'");
  }
  return value;
}

BackendSettings BackendSettings::Read(const Json& config, const std::string& directory) {
  // The server adds these to every backend's command line.
  static constexpr std::array<std::string_view, 4> kIgnored = {
      "auto-complete-config", "backend-directory", "min-compute-capability",
      "version"};
  BackendSettings settings;
  settings.directory = directory;
  settings.library = Environment("BUILDER_ONNXRUNTIME_LIBRARY");
  settings.python_library = Environment("BUILDER_PYTHON_LIBRARY");
  for (const auto& [key, json] : config["cmdline"].members()) {
    const std::string value = json.AsText();
    const std::string what = "--backend-config=onnxruntime," + key;
    if (key == "library") {
      settings.library = value;
    } else if (key == "python-library") {
      settings.python_library = value;
    } else if (key == "default-max-batch-size") {
      settings.default_max_batch_size = ParseInt(value, 0, what);
    } else if (key == "enable-global-threadpool") {
      settings.global_thread_pool = ParseFlag(value, what);
    } else if (key == "intra_op_thread_count") {
      settings.intra_op_threads = ParseInt(value, 0, what);
    } else if (key == "inter_op_thread_count") {
      settings.inter_op_threads = ParseInt(value, 0, what);
    } else if (std::find(kIgnored.begin(), kIgnored.end(), key) == kIgnored.end()) {
      Log(TRITONSERVER_LOG_WARN, what + ": unknown setting, ignored");
    }
  }
  return settings;
}

SessionSettings SessionSettings::Read(const Json& config, const std::string& model) {
  // Deprecated top-level CUDA options, still accepted by the official backend.
  static constexpr std::array<std::string_view, 4> kCuda = {
      "cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy",
      "do_copy_in_default_stream"};
  SessionSettings settings;
  const Json& optimization = config["optimization"];
  settings.graph_level = GraphLevel(optimization["graph"]["level"].AsInt(), model);
  const Json& accelerators = optimization["execution_accelerators"];
  settings.gpu_accelerators = Accelerators(accelerators["gpu_execution_accelerator"]);
  settings.cpu_accelerators = Accelerators(accelerators["cpu_execution_accelerator"]);
  for (const Json& file : config["model_operations"]["op_library_filename"].items()) {
    settings.op_libraries.push_back(file.AsText());
  }
  for (const auto& [key, json] : config["parameters"].members()) {
    const std::string value = json["string_value"].AsText();
    const std::string what = "model '" + model + "': parameter '" + key + "'";
    if (key == "intra_op_thread_count") {
      settings.intra_op_threads = ParseInt(value, 0, what);
    } else if (key == "inter_op_thread_count") {
      settings.inter_op_threads = ParseInt(value, 0, what);
    } else if (key == "execution_mode") {
      settings.execution_mode = ParseFlag(value, what) ? 1 : 0;
    } else if (key == "enable_mem_arena") {
      settings.mem_arena = ParseFlag(value, what) ? 1 : 0;
    } else if (key == "enable_mem_pattern") {
      settings.mem_pattern = ParseFlag(value, what) ? 1 : 0;
    } else if (key == "memory.enable_memory_arena_shrinkage") {
      settings.arena_shrinkage = value;
    } else if (key == "share_session_between_instances") {
      settings.share_session = ParseFlag(value, what);
    } else if (key.rfind("session.", 0) == 0) {
      settings.session_entries.emplace_back(key, value);
    } else if (std::find(kCuda.begin(), kCuda.end(), key) != kCuda.end()) {
      settings.cuda_options.emplace_back(key, value);
    } else {
      Log(TRITONSERVER_LOG_WARN, what + " is unknown to the onnxruntime backend, ignored");
    }
  }
  return settings;
}

}  // namespace ort_backend
