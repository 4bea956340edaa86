// Opening an ONNX file as a session on a device.
#pragma once

#include "model_config.h"
#include "ort_runtime.h"
#include "settings.h"

namespace ort_backend {

struct Device {
  bool gpu = false;
  int id = 0;
  bool operator==(const Device& other) const { return gpu == other.gpu && id == other.id; }
};

// Throws a Failure that names the model, the file and what ONNX Runtime says about it.
SessionPtr OpenSession(const ModelConfig& config, const SessionSettings& settings,
                       const Device& device);

// The options of every run, or null when the defaults do.
RunOptionsPtr NewRunOptions(const SessionSettings& settings);

}  // namespace ort_backend
