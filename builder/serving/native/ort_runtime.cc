#include "ort_runtime.h"

#include <dlfcn.h>

#include <filesystem>
#include <mutex>
#include <vector>

#include "failure.h"

namespace ort_backend {
namespace {

struct State {
  OrtFunctions functions{};
  bool bound = false;
  OrtEnv* env = nullptr;
  OrtMemoryInfo* cpu_memory = nullptr;
  OrtAllocator* allocator = nullptr;
  BackendSettings settings;
  std::vector<std::string> providers;
  std::mutex operators_mutex;
};

State& Runtime() {
  static State* state = new State;  // never destroyed: sessions may outlive static destructors
  return *state;
}

std::string DlError() {
  const char* error = dlerror();
  return error == nullptr ? "unknown error" : error;
}

std::string FindLibrary(const BackendSettings& settings) {
  if (!settings.library.empty()) return settings.library;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(settings.directory, ignored)) {
    if (entry.path().filename().string().rfind("libonnxruntime.so", 0) == 0) {
      return entry.path().string();
    }
  }
  throw Failure(TRITONSERVER_ERROR_NOT_FOUND,
                "no ONNX Runtime library: there is no libonnxruntime.so* in '" +
                    settings.directory +
                    "'; name one with --backend-config=onnxruntime,library=<path> or the "
                    "environment variable BUILDER_ONNXRUNTIME_LIBRARY");
}

void Bind(State* state) {
  const std::string path = FindLibrary(state->settings);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Failure(TRITONSERVER_ERROR_NOT_FOUND, "cannot open ONNX Runtime: " + DlError());
  }
  const auto base_function =
      reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (base_function == nullptr) {
    throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                  "'" + path + "' is not ONNX Runtime: " + DlError());
  }
  const OrtApiBase* base = base_function();
  const void* api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) {
    throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                  "'" + path + "' is ONNX Runtime " + base->GetVersionString() +
                      ", which lacks API version " + std::to_string(kOrtApiVersion) +
                      "; use 1.15 or later");
  }
  void* const* slots = static_cast<void* const*>(api);
#define ORT_BIND(slot, result, name, args) \
  state->functions.name = reinterpret_cast<decltype(state->functions.name)>(slots[slot]);
  ORT_FUNCTIONS(ORT_BIND)
#undef ORT_BIND
  state->bound = true;
  Log(TRITONSERVER_LOG_INFO,
      std::string("ONNX Runtime ") + base->GetVersionString() + " from " + path);
}

void ForwardLog(void*, OrtLoggingLevel severity, const char*, const char* logid, const char*,
                const char* message) {
  const bool error = severity >= kOrtLogError;
  Log(error ? TRITONSERVER_LOG_ERROR : TRITONSERVER_LOG_WARN,
      std::string(logid) + ": " + message);
}

OrtEnv* NewEnv(const BackendSettings& settings) {
  const OrtLoggingLevel level = kOrtLogWarning;  // below that it tells of every graph pass
  OrtEnv* env = nullptr;
  if (!settings.global_thread_pool) {
    Check(Ort().CreateEnvWithCustomLogger(ForwardLog, nullptr, level, "onnxruntime", &env),
          "creating the ONNX Runtime environment");
    return env;
  }
  OrtThreadingOptions* threading = nullptr;
  Check(Ort().CreateThreadingOptions(&threading), "creating threading options");
  const ThreadingOptionsPtr owner(threading);
  Check(Ort().SetGlobalIntraOpNumThreads(threading, settings.intra_op_threads),
        "setting the intra-op threads");
  Check(Ort().SetGlobalInterOpNumThreads(threading, settings.inter_op_threads),
        "setting the inter-op threads");
  Check(Ort().SetGlobalSpinControl(threading, 0), "turning spinning off");
  Check(Ort().CreateEnvWithCustomLoggerAndGlobalThreadPools(ForwardLog, nullptr, level,
                                                            "onnxruntime", threading, &env),
        "creating the ONNX Runtime environment");
  return env;
}

std::vector<std::string> ListProviders() {
  char** names = nullptr;
  int count = 0;
  Check(Ort().GetAvailableProviders(&names, &count), "listing execution providers");
  std::vector<std::string> providers(names, names + count);
  LogIfError(Ort().ReleaseAvailableProviders(names, count), "releasing the provider list");
  return providers;
}

// `x.cpython-311-x86_64-linux-gnu.so` was built for Python 3.11.
std::vector<std::string> PythonCandidates(const std::string& library) {
  if (!Runtime().settings.python_library.empty()) return {Runtime().settings.python_library};
  const std::string mark = "cpython-3";
  const size_t at = library.rfind(mark);
  if (at == std::string::npos) return {"libpython3.so"};
  const size_t start = at + mark.size();
  const size_t end = library.find_first_not_of("0123456789", start);
  const std::string name = "libpython3." + library.substr(start, end - start) + ".so";
  return {name + ".1.0", name};
}

void LoadPython(const std::string& library, const std::string& reason) {
  std::string tried;
  for (const std::string& candidate : PythonCandidates(library)) {
    if (dlopen(candidate.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) {
      Log(TRITONSERVER_LOG_INFO, "opened " + candidate + " for the symbols that " + library +
                                     " needs; no interpreter runs");
      return;
    }
    tried += "\n  " + DlError();
  }
  throw Failure(TRITONSERVER_ERROR_NOT_FOUND,
                "custom operator library '" + library + "' needs Python's symbols (" + reason +
                    ") and libpython could not be opened; name it with "
                    "--backend-config=onnxruntime,python-library=<path>" + tried);
}

}  // namespace

const OrtFunctions& Ort() { return Runtime().functions; }

void OrtRuntime::Start(const BackendSettings& settings) {
  State& state = Runtime();
  state.settings = settings;
  if (!state.bound) Bind(&state);
  state.env = NewEnv(settings);
  Check(Ort().CreateCpuMemoryInfo(kOrtArenaAllocator, kOrtMemTypeDefault, &state.cpu_memory),
        "describing CPU memory");
  Check(Ort().GetAllocatorWithDefaultOptions(&state.allocator), "getting the allocator");
  state.providers = ListProviders();
}

void OrtRuntime::Stop() {
  State& state = Runtime();
  if (state.cpu_memory != nullptr) Ort().ReleaseMemoryInfo(state.cpu_memory);
  if (state.env != nullptr) Ort().ReleaseEnv(state.env);
  state.cpu_memory = nullptr;
  state.env = nullptr;
}

const OrtEnv* OrtRuntime::Env() { return Runtime().env; }
OrtAllocator* OrtRuntime::Allocator() { return Runtime().allocator; }
const OrtMemoryInfo* OrtRuntime::CpuMemory() { return Runtime().cpu_memory; }
const BackendSettings& OrtRuntime::Settings() { return Runtime().settings; }

bool OrtRuntime::HasProvider(const std::string& name) {
  for (const std::string& provider : Runtime().providers) {
    if (provider == name) return true;
  }
  return false;
}

void OrtRuntime::RegisterOperators(OrtSessionOptions* options, const std::string& path) {
  const std::lock_guard<std::mutex> lock(Runtime().operators_mutex);
  // Opened here first, because the loader's own message says which symbol is missing.
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
    std::string reason = DlError();
    bool opened = false;
    if (reason.find("undefined symbol: Py") != std::string::npos ||
        reason.find("undefined symbol: _Py") != std::string::npos) {
      LoadPython(path, reason);
      opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr;
      if (!opened) reason = DlError();
    }
    if (!opened) {
      throw Failure(TRITONSERVER_ERROR_NOT_FOUND,
                    "cannot open custom operator library '" + path + "': " + reason);
    }
  }
  void* registered = nullptr;  // stays open: its operators live as long as any session
  Check(Ort().RegisterCustomOpsLibrary(options, path.c_str(), &registered),
        ("registering custom operators of '" + path + "'").c_str());
}

}  // namespace ort_backend
