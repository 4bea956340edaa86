// The inputs and outputs that an ONNX Runtime session declares.
#pragma once

#include <string>
#include <vector>

#include "dtype.h"
#include "ort_runtime.h"

namespace ort_backend {

struct GraphTensor {
  std::string name;
  const DataType* type;              // null: not a tensor, or an element type Triton lacks
  std::vector<int64_t> dims;         // -1 where dynamic
  std::vector<std::string> symbols;  // the name of a dynamic dim, empty where it has none
};

struct Graph {
  std::vector<GraphTensor> inputs;
  std::vector<GraphTensor> outputs;
  std::vector<GraphTensor> initializers;  // weights that a request may override

  static Graph Of(const OrtSession* session);
};

const GraphTensor* FindTensor(const std::vector<GraphTensor>& tensors, const std::string& name);

// `'a', 'b'`, for messages.
std::string NameList(const std::vector<GraphTensor>& tensors);

}  // namespace ort_backend
