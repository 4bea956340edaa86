// One instance of a model: what the server calls with requests, one call at a time.
#pragma once

#include "batch_run.h"
#include "model_state.h"

namespace ort_backend {

class InstanceState {
 public:
  InstanceState(TRITONBACKEND_ModelInstance* instance, ModelState* model, const Device& device);

  // Makes room for `count` requests. May throw; the requests still belong to the server.
  void Reserve(size_t count);

  // Answers and releases every request, whatever happens.
  void Execute(TRITONBACKEND_Request** requests, size_t count) noexcept;

 private:
  void NextGroup(size_t count);
  void RunGroup(uint64_t exec_start) noexcept;
  TRITONSERVER_Error* TryRun(RequestWork* const* works, size_t count, uint64_t exec_start) noexcept;

  TRITONBACKEND_ModelInstance* const instance_;
  const Signature& signature_;
  BatchRun run_;
  std::vector<RequestWork> works_;
  std::vector<RequestWork*> group_;
};

}  // namespace ort_backend
