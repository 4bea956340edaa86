#include "model_config.h"

#include <algorithm>
#include <filesystem>

#include "failure.h"

namespace ort_backend {
namespace {

const DataType* ReadType(const Json& json, const std::string& what) {
  const std::string name = json.AsText("TYPE_INVALID");
  if (name == "TYPE_INVALID") return nullptr;
  const DataType* type = FindDataType(name);
  if (type == nullptr) Invalid(what + ": data type " + name + " cannot be served from ONNX");
  return type;
}

std::vector<int64_t> ReadDims(const Json& json) {
  std::vector<int64_t> dims;
  for (const Json& dim : json.items()) dims.push_back(dim.AsInt());
  return dims;
}

std::vector<TensorConfig> ReadTensors(const Json& list, const std::string& model) {
  std::vector<TensorConfig> tensors;
  for (const Json& item : list.items()) {
    TensorConfig tensor;
    tensor.name = item["name"].AsText();
    tensor.type = ReadType(item["data_type"], "model '" + model + "': '" + tensor.name + "'");
    tensor.has_dims = !item["dims"].items().empty();
    const Json& reshape = item["reshape"];
    tensor.dims = ReadDims(reshape.IsNull() ? item["dims"] : reshape["shape"]);
    tensor.optional = item["optional"].AsBool();
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Json FetchJson(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  Check(TRITONBACKEND_ModelConfig(model, 1, &message), "reading the model configuration");
  const char* base = nullptr;
  size_t size = 0;
  TRITONSERVER_Error* error = TRITONSERVER_MessageSerializeToJson(message, &base, &size);
  const std::string text = error == nullptr ? std::string(base, size) : "";
  LogIfError(TRITONSERVER_MessageDelete(message), "releasing the model configuration");
  Check(error, "reading the model configuration");
  return Json::Parse(text);
}

// Where the official backend looks: <repository>/<version>/<default_model_filename>, and inside it
// when it is a folder (a model with external weights).
std::string ModelPath(const std::string& repository, uint64_t version, const Json& json,
                      const std::string& model) {
  const std::string filename = json["default_model_filename"].AsText();
  const std::filesystem::path wanted = filename.empty() ? "model.onnx" : filename;
  std::filesystem::path path =
      std::filesystem::path(repository) / std::to_string(version) / wanted;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) path /= "model.onnx";
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Failure(TRITONSERVER_ERROR_NOT_FOUND,
                  "model '" + model + "': there is no file '" + path.string() + "'");
  }
  return path.string();
}

}  // namespace

ModelConfig ModelConfig::Fetch(TRITONBACKEND_Model* model) {
  ModelConfig config;
  const char* text = nullptr;
  Check(TRITONBACKEND_ModelName(model, &text), "reading the model's name");
  config.name = text;
  uint64_t version = 0;
  Check(TRITONBACKEND_ModelVersion(model, &version), "reading the model's version");
  TRITONBACKEND_ArtifactType artifact = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  Check(TRITONBACKEND_ModelRepository(model, &artifact, &text), "reading the model's folder");
  config.repository = text;
  config.json = FetchJson(model);
  const Json& json = config.json;
  config.path = ModelPath(config.repository, version, json, config.name);
  config.max_batch_size = json["max_batch_size"].AsInt();
  for (const char* scheduler : {"dynamic_batching", "sequence_batching", "ensemble_scheduling"}) {
    config.has_scheduler = config.has_scheduler || !json[scheduler].IsNull();
  }
  for (const char* unsupported : {"batch_input", "batch_output"}) {
    if (!json[unsupported].items().empty()) {
      throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                    "model '" + config.name + "': " + unsupported +
                        " is not supported by this onnxruntime backend");
    }
  }
  config.inputs = ReadTensors(json["input"], config.name);
  config.outputs = ReadTensors(json["output"], config.name);
  for (const Json& control : json["sequence_batching"]["control_input"].items()) {
    config.controls.push_back(control["name"].AsText());
  }
  for (const Json& state : json["sequence_batching"]["state"].items()) {
    const std::string input = state["input_name"].AsText();
    config.states.push_back({input, state["output_name"].AsText(),
                             ReadType(state["data_type"],
                                      "model '" + config.name + "': state '" + input + "'")});
  }
  return config;
}

bool ModelConfig::IsControl(const std::string& input) const {
  return std::find(controls.begin(), controls.end(), input) != controls.end();
}

bool ModelConfig::IsStateInput(const std::string& input) const {
  return std::any_of(states.begin(), states.end(),
                     [&](const StateConfig& state) { return state.input_name == input; });
}

bool ModelConfig::IsStateOutput(const std::string& output) const {
  return std::any_of(states.begin(), states.end(),
                     [&](const StateConfig& state) { return state.output_name == output; });
}

}  // namespace ort_backend
