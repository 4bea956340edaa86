// What a loaded model takes and gives: the graph's tensors joined with the configuration's, checked
// against each other once at load, so that a request only needs a comparison of dims.
#pragma once

#include <string>
#include <vector>

#include "graph.h"
#include "model_config.h"

namespace ort_backend {

struct InputSlot {
  std::string name;
  const DataType* type;
  std::vector<int64_t> dims;  // what a request must have, batch dim (-1) included
  bool check_dims;            // not for sequence controls and states, which the server makes
  bool optional;
  bool scalar;  // rank 0 in the model, [1] for clients: without a batch dim Triton has no scalars
};

// How an output's dim is known before the model has run.
struct DimSource {
  enum class Kind { kFixed, kBatch, kInput, kUnknown };
  Kind kind = Kind::kUnknown;
  int64_t value = 0;  // kFixed
  size_t input = 0;   // kInput: the dim `dim` of input `input` bears the same symbol
  size_t dim = 0;
};

struct OutputSlot {
  std::string name;
  const DataType* type;
  std::vector<DimSource> dims;
  bool predictable;  // every dim is known before the run, and the elements have one size
  bool is_state;
};

struct Signature {
  std::string model;
  bool batched = false;
  std::vector<InputSlot> inputs;
  std::vector<OutputSlot> outputs;

  // Throws a Failure that names the model and the tensor and lists both sides of a mismatch.
  static Signature Join(const ModelConfig& config, const Graph& graph);
};

}  // namespace ort_backend
