#include "signature.h"

#include "failure.h"

namespace ort_backend {
namespace {

std::string TypeText(const DataType* type) {
  return type == nullptr ? "a type that Triton lacks" : type->config_name;
}

class Joiner {
 public:
  Joiner(const ModelConfig& config, const Graph& graph)
      : config_(config), graph_(graph), batched_(config.max_batch_size > 0) {}

  Signature Join() {
    signature_.model = config_.name;
    signature_.batched = batched_;
    for (const TensorConfig& input : config_.inputs) AddInput(input);
    for (const std::string& control : config_.controls) AddServerInput(control, "control input");
    for (const StateConfig& state : config_.states) {
      AddServerInput(state.input_name, "state input");
      CheckState(state);
    }
    for (const GraphTensor& input : graph_.inputs) RequireConfigured(input);
    for (const TensorConfig& output : config_.outputs) AddOutput(output);
    for (const StateConfig& state : config_.states) AddStateOutput(state);
    return std::move(signature_);
  }

 private:
  [[noreturn]] void Bad(const std::string& what) const {
    Invalid("model '" + config_.name + "': " + what + " (" + config_.path + ")");
  }

  const GraphTensor& FindInput(const std::string& name, const char* role) const {
    const GraphTensor* tensor = FindTensor(graph_.inputs, name);
    if (tensor == nullptr) tensor = FindTensor(graph_.initializers, name);
    if (tensor == nullptr) {
      Bad(std::string(role) + " '" + name + "' of the configuration is not in the ONNX file, " +
          "which has inputs " + NameList(graph_.inputs));
    }
    return *tensor;
  }

  const GraphTensor& FindOutput(const std::string& name, const char* role) const {
    const GraphTensor* tensor = FindTensor(graph_.outputs, name);
    if (tensor == nullptr) {
      Bad(std::string(role) + " '" + name + "' of the configuration is not in the ONNX file, " +
          "which has outputs " + NameList(graph_.outputs));
    }
    return *tensor;
  }

  void CheckType(const char* role, const std::string& name, const DataType* wanted,
                 const GraphTensor& tensor) const {
    if (tensor.type == nullptr) Bad(std::string(role) + " '" + name + "' is not a usable tensor");
    if (wanted != tensor.type) {
      Bad(std::string(role) + " '" + name + "' is " + TypeText(wanted) +
          " in the configuration and " + TypeText(tensor.type) + " in the ONNX file");
    }
  }

  bool IsScalar(const TensorConfig& config, const GraphTensor& tensor) const {
    return !batched_ && tensor.dims.empty() && config.dims == std::vector<int64_t>{1};
  }

  // A dynamic dim of the model takes any configured dim; a fixed one must be configured as it is.
  void CheckDims(const char* role, const TensorConfig& config, const GraphTensor& tensor) const {
    if (IsScalar(config, tensor)) return;
    std::vector<int64_t> wanted = config.dims;
    if (batched_) wanted.insert(wanted.begin(), -1);
    bool fits = wanted.size() == tensor.dims.size();
    for (size_t i = 0; fits && i < wanted.size(); ++i) {
      fits = tensor.dims[i] == -1 || tensor.dims[i] == wanted[i];
    }
    if (fits) return;
    std::string message = std::string(role) + " '" + config.name + "' has dims " +
                          ShapeText(config.dims) + " in the configuration and " +
                          ShapeText(tensor.dims) + " in the ONNX file";
    if (batched_) {
      message += "; with max_batch_size " + std::to_string(config_.max_batch_size) +
                 " the ONNX dims must be a dynamic batch dim followed by the configured ones";
    }
    Bad(message);
  }

  void AddInput(const TensorConfig& input) {
    const GraphTensor& tensor = FindInput(input.name, "input");
    CheckType("input", input.name, input.type, tensor);
    CheckDims("input", input, tensor);
    std::vector<int64_t> dims = input.dims;
    if (batched_) dims.insert(dims.begin(), -1);
    signature_.inputs.push_back({input.name, tensor.type, std::move(dims), true, input.optional,
                                 IsScalar(input, tensor)});
    sources_.push_back(&tensor);
  }

  void AddServerInput(const std::string& name, const char* role) {
    const GraphTensor& tensor = FindInput(name, role);
    if (tensor.type == nullptr) Bad(std::string(role) + " '" + name + "' is not a usable tensor");
    signature_.inputs.push_back({name, tensor.type, tensor.dims, false, false, false});
    sources_.push_back(&tensor);
  }

  void CheckState(const StateConfig& state) const {
    CheckType("state input", state.input_name, state.type,
              FindInput(state.input_name, "state input"));
    CheckType("state output", state.output_name, state.type,
              FindOutput(state.output_name, "state output"));
  }

  void RequireConfigured(const GraphTensor& input) const {
    for (const InputSlot& slot : signature_.inputs) {
      if (slot.name == input.name) return;
    }
    Bad("input '" + input.name + "' " + ShapeText(input.dims) + " " + TypeText(input.type) +
        " of the ONNX file is missing from the configuration");
  }

  DimSource Source(const GraphTensor& tensor, size_t dim) const {
    DimSource source;
    if (batched_ && dim == 0) {
      source.kind = DimSource::Kind::kBatch;
    } else if (tensor.dims[dim] != -1) {
      source.kind = DimSource::Kind::kFixed;
      source.value = tensor.dims[dim];
    } else if (!tensor.symbols[dim].empty()) {
      for (size_t i = 0; i < sources_.size(); ++i) {
        if (signature_.inputs[i].optional) continue;
        for (size_t d = 0; d < sources_[i]->dims.size(); ++d) {
          if (sources_[i]->symbols[d] != tensor.symbols[dim]) continue;
          return {DimSource::Kind::kInput, 0, i, d};
        }
      }
    }
    return source;
  }

  void AddSlot(const GraphTensor& tensor, bool is_state) {
    OutputSlot slot{tensor.name, tensor.type, {}, !tensor.type->IsBytes() && !tensor.dims.empty(),
                    is_state};
    for (size_t i = 0; i < tensor.dims.size(); ++i) {
      slot.dims.push_back(Source(tensor, i));
      if (slot.dims.back().kind == DimSource::Kind::kUnknown) slot.predictable = false;
    }
    signature_.outputs.push_back(std::move(slot));
  }

  void AddOutput(const TensorConfig& output) {
    const GraphTensor& tensor = FindOutput(output.name, "output");
    CheckType("output", output.name, output.type, tensor);
    // Rank 0 may also mean that the ONNX file does not say.
    if (!tensor.dims.empty()) CheckDims("output", output, tensor);
    AddSlot(tensor, config_.IsStateOutput(output.name));
  }

  void AddStateOutput(const StateConfig& state) {
    for (const OutputSlot& slot : signature_.outputs) {
      if (slot.name == state.output_name) return;  // served as an output too
    }
    AddSlot(FindOutput(state.output_name, "state output"), true);
  }

  const ModelConfig& config_;
  const Graph& graph_;
  const bool batched_;
  Signature signature_;
  std::vector<const GraphTensor*> sources_;  // parallel to signature_.inputs
};

}  // namespace

Signature Signature::Join(const ModelConfig& config, const Graph& graph) {
  return Joiner(config, graph).Join();
}

}  // namespace ort_backend
