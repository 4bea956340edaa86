// Fills in what a config.pbtxt leaves out, from what the ONNX file declares.
#pragma once

#include <optional>

#include "graph.h"
#include "model_config.h"

namespace ort_backend {

// The completed configuration, or nothing when there is nothing to add. `default_max_batch_size` is
// used only for a model whose batch dim is beyond doubt.
std::optional<Json> AutoComplete(const ModelConfig& config, const Graph& graph,
                                 int default_max_batch_size);

}  // namespace ort_backend
