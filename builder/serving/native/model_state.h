// A loaded model: its configuration, its signature, and the session that its instances run.
#pragma once

#include <memory>
#include <mutex>

#include "model_config.h"
#include "session.h"
#include "settings.h"
#include "signature.h"

namespace ort_backend {

class ModelState {
 public:
  // Reads and completes the configuration and checks it against the ONNX file, or throws a Failure.
  explicit ModelState(TRITONBACKEND_Model* model);

  const ModelConfig& config() const { return config_; }
  const Signature& signature() const { return signature_; }
  const SessionSettings& settings() const { return settings_; }

  // A session for one instance on `device`. The one that was opened to read the signature goes to
  // the first instance that fits; with share_session_between_instances all instances of a device
  // run that same one.
  std::shared_ptr<OrtSession> SessionFor(const Device& device);

 private:
  ModelConfig config_;
  SessionSettings settings_;
  Signature signature_;
  std::mutex mutex_;
  Device first_device_;
  std::shared_ptr<OrtSession> first_session_;
};

}  // namespace ort_backend
