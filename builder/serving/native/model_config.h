// A model's configuration as the server holds it.
#pragma once

#include <string>
#include <vector>

#include "dtype.h"
#include "json.h"

namespace ort_backend {

struct TensorConfig {
  std::string name;
  const DataType* type;       // null when the config leaves it out
  std::vector<int64_t> dims;  // without the batch dim, after `reshape`; -1 where dynamic
  bool has_dims;
  bool optional;
};

// Implicit state of a sequence: the server keeps the output and feeds it back as the input.
struct StateConfig {
  std::string input_name;
  std::string output_name;
  const DataType* type;
};

struct ModelConfig {
  Json json = Json::Object();
  std::string name;
  std::string path;  // of the ONNX file
  std::string repository;  // the model's folder, above its versions
  int64_t max_batch_size = 0;
  bool has_scheduler = false;
  std::vector<TensorConfig> inputs;
  std::vector<TensorConfig> outputs;
  std::vector<std::string> controls;  // input tensors that the sequence batcher fills
  std::vector<StateConfig> states;

  // Asks the server. Throws a Failure naming the model when the config cannot be used.
  static ModelConfig Fetch(TRITONBACKEND_Model* model);

  bool IsControl(const std::string& input) const;
  bool IsStateInput(const std::string& input) const;
  bool IsStateOutput(const std::string& output) const;
};

}  // namespace ort_backend
