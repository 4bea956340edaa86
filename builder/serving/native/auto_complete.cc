#include "auto_complete.h"

#include "failure.h"

namespace ort_backend {
namespace {

// A dynamic first dim alone proves nothing: a tokenizer's is the number of texts, a time series' is
// its length. It is a batch dim when every tensor starts with the same named symbol.
bool SharesFirstSymbol(const Graph& graph) {
  std::string symbol;
  for (const auto* tensors : {&graph.inputs, &graph.outputs}) {
    for (const GraphTensor& tensor : *tensors) {
      if (tensor.dims.empty() || tensor.dims[0] != -1 || tensor.symbols[0].empty()) return false;
      if (symbol.empty()) symbol = tensor.symbols[0];
      if (tensor.symbols[0] != symbol) return false;
    }
  }
  return !symbol.empty();
}

// A config that spells out dims has said by their rank whether there is a batch dim.
std::optional<bool> BatchesByRank(const std::vector<TensorConfig>& configs,
                                  const std::vector<GraphTensor>& tensors) {
  for (const TensorConfig& config : configs) {
    const GraphTensor* tensor = FindTensor(tensors, config.name);
    if (tensor == nullptr || !config.has_dims) continue;
    return config.dims.size() + 1 == tensor->dims.size();
  }
  return std::nullopt;
}

bool ShouldBatch(const ModelConfig& config, const Graph& graph) {
  if (!SharesFirstSymbol(graph)) return false;
  if (const auto answer = BatchesByRank(config.inputs, graph.inputs)) return *answer;
  if (const auto answer = BatchesByRank(config.outputs, graph.outputs)) return *answer;
  return true;
}

Json DescribeTensor(const GraphTensor& tensor, bool batched, const std::string& model) {
  if (tensor.type == nullptr) {
    throw Failure(TRITONSERVER_ERROR_UNSUPPORTED,
                  "model '" + model + "': '" + tensor.name +
                      "' is not a tensor of a type that Triton can carry");
  }
  Json json = Json::Object();
  json.Set("name", Json::Text(tensor.name));
  json.Set("data_type", Json::Text(tensor.type->config_name));
  Json dims = Json::Array();
  for (size_t i = batched ? 1 : 0; i < tensor.dims.size(); ++i) {
    dims.Append(Json::Integer(tensor.dims[i]));
  }
  if (dims.items().empty()) {  // a scalar; Triton has no empty dims, only an empty reshape
    dims.Append(Json::Integer(1));
    if (batched) {
      Json reshape = Json::Object();
      reshape.Set("shape", Json::Array());
      json.Set("reshape", std::move(reshape));
    }
  }
  json.Set("dims", std::move(dims));
  return json;
}

// Completes the entries of `list` and, where `add_missing`, adds those that it lacks.
bool CompleteList(const std::vector<GraphTensor>& tensors, const std::vector<TensorConfig>& configs,
                  const ModelConfig& config, bool batched, bool add_missing, Json* list) {
  bool changed = false;
  for (const GraphTensor& tensor : tensors) {
    if (config.IsControl(tensor.name) || config.IsStateInput(tensor.name) ||
        config.IsStateOutput(tensor.name)) {
      continue;
    }
    size_t at = 0;
    while (at < configs.size() && configs[at].name != tensor.name) ++at;
    if (at == configs.size()) {
      if (!add_missing) continue;
      list->Append(DescribeTensor(tensor, batched, config.name));
      changed = true;
    } else if (configs[at].type == nullptr || !configs[at].has_dims) {
      const Json described = DescribeTensor(tensor, batched, config.name);
      Json& entry = list->items()[at];
      if (configs[at].type == nullptr) entry.Set("data_type", described["data_type"]);
      if (!configs[at].has_dims) {
        entry.Set("dims", described["dims"]);
        if (!described["reshape"].IsNull()) entry.Set("reshape", described["reshape"]);
      }
      changed = true;
    }
  }
  return changed;
}

Json ListOf(const Json& json, const char* key) {
  return json[key].IsNull() ? Json::Array() : json[key];
}

}  // namespace

std::optional<Json> AutoComplete(const ModelConfig& config, const Graph& graph,
                                 int default_max_batch_size) {
  Json json = config.json;
  bool changed = false;
  int64_t max_batch_size = config.max_batch_size;
  // An explicit `max_batch_size: 0` cannot be told from one that was left out.
  if (max_batch_size == 0 && default_max_batch_size > 0 && ShouldBatch(config, graph)) {
    max_batch_size = default_max_batch_size;
    json.Set("max_batch_size", Json::Integer(max_batch_size));
    if (max_batch_size > 1 && !config.has_scheduler) json.Set("dynamic_batching", Json::Object());
    changed = true;
  }
  const bool batched = max_batch_size > 0;
  Json inputs = ListOf(json, "input");
  if (CompleteList(graph.inputs, config.inputs, config, batched, true, &inputs)) {
    json.Set("input", std::move(inputs));
    changed = true;
  }
  // A config that names some outputs serves just those.
  Json outputs = ListOf(json, "output");
  if (CompleteList(graph.outputs, config.outputs, config, batched, config.outputs.empty(),
                   &outputs)) {
    json.Set("output", std::move(outputs));
    changed = true;
  }
  if (!changed) return std::nullopt;
  return json;
}

}  // namespace ort_backend
