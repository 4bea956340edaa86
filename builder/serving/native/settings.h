// What users may set: the `--backend-config=onnxruntime,<name>=<value>` flags of the server, and
// the `parameters` and `optimization` of a model's config.pbtxt. Names and meanings are those of
// the official onnxruntime backend; `library` and `python-library` are additions of this one, and
// any parameter starting with `session.` is passed to ONNX Runtime as a session config entry.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "json.h"
#include "ort_api.h"

namespace ort_backend {

using Options = std::vector<std::pair<std::string, std::string>>;

struct BackendSettings {
  std::string directory;       // where the backend's shared library lies
  std::string library;         // path of libonnxruntime.so.1.x
  std::string python_library;  // libpython, for custom-op libraries that need its symbols
  int default_max_batch_size = 4;
  bool global_thread_pool = false;
  int intra_op_threads = 0;  // of the global pool
  int inter_op_threads = 0;

  // `config` is the backend config message: {"cmdline": {"<name>": "<value>", ...}}.
  static BackendSettings Read(const Json& config, const std::string& directory);
};

struct Accelerator {
  std::string name;
  Options options;
};

struct SessionSettings {
  int intra_op_threads = 0;  // 0: one per core
  int inter_op_threads = 0;
  int execution_mode = 0;  // 1: parallel
  OrtGraphLevel graph_level = kOrtEnableAll;
  int mem_arena = -1;  // -1: as ONNX Runtime decides
  int mem_pattern = -1;
  bool share_session = false;
  std::string arena_shrinkage;  // e.g. "cpu:0"
  Options session_entries;
  Options cuda_options;  // the deprecated top-level parameters
  std::vector<Accelerator> gpu_accelerators;
  std::vector<Accelerator> cpu_accelerators;
  std::vector<std::string> op_libraries;

  // `config` is the model configuration; `model` names the model in messages.
  static SessionSettings Read(const Json& config, const std::string& model);
};

// A decimal integer that is at least `least`; throws a Failure naming `what` otherwise.
int ParseInt(const std::string& text, int least, const std::string& what);

}  // namespace ort_backend
