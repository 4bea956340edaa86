#include "model_state.h"

#include "auto_complete.h"
#include "failure.h"

namespace ort_backend {
namespace {

// The device of the first instance group, so that its session can be reused by an instance.
Device FirstDevice(const ModelConfig& config) {
  Device device;
  const Json& groups = config.json["instance_group"];
  if (groups.items().empty()) return device;
  const Json& group = groups.items()[0];
  device.gpu = group["kind"].AsText() == "KIND_GPU";
  if (device.gpu && !group["gpus"].items().empty()) {
    device.id = static_cast<int>(group["gpus"].items()[0].AsInt());
  }
  return device;
}

void SetConfig(TRITONBACKEND_Model* model, const Json& json) {
  const std::string text = json.Write();
  TRITONSERVER_Message* message = nullptr;
  Check(TRITONSERVER_MessageNewFromSerializedJson(&message, text.data(), text.size()),
        "writing the completed configuration");
  TRITONSERVER_Error* error = TRITONBACKEND_ModelSetConfig(model, 1, message);
  LogIfError(TRITONSERVER_MessageDelete(message), "releasing the completed configuration");
  Check(error, "setting the completed configuration");
}

}  // namespace

ModelState::ModelState(TRITONBACKEND_Model* model)
    : config_(ModelConfig::Fetch(model)),
      settings_(SessionSettings::Read(config_.json, config_.name)),
      first_device_(FirstDevice(config_)),
      first_session_(OpenSession(config_, settings_, first_device_)) {
  const Graph graph = Graph::Of(first_session_.get());
  bool auto_complete = false;
  Check(TRITONBACKEND_ModelAutoCompleteConfig(model, &auto_complete), "reading auto-complete");
  if (auto_complete) {
    const int default_batch = OrtRuntime::Settings().default_max_batch_size;
    if (const auto completed = AutoComplete(config_, graph, default_batch)) {
      SetConfig(model, *completed);
      config_ = ModelConfig::Fetch(model);
    }
  }
  signature_ = Signature::Join(config_, graph);
}

std::shared_ptr<OrtSession> ModelState::SessionFor(const Device& device) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_session_ != nullptr && device == first_device_) {
      return settings_.share_session ? first_session_ : std::move(first_session_);
    }
  }
  std::shared_ptr<OrtSession> session = OpenSession(config_, settings_, device);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (device == first_device_) return session;
  // No instance is where the first session was opened, or not only there: let go of it.
  first_device_ = device;
  first_session_ = settings_.share_session ? session : nullptr;
  return session;
}

}  // namespace ort_backend
