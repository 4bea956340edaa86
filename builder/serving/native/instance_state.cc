#include "instance_state.h"

#include "failure.h"

namespace ort_backend {

InstanceState::InstanceState(TRITONBACKEND_ModelInstance* instance, ModelState* model,
                             const Device& device)
    : instance_(instance),
      signature_(model->signature()),
      run_(signature_, model->SessionFor(device), NewRunOptions(model->settings())) {}

void InstanceState::Reserve(size_t count) {
  if (works_.size() < count) works_.resize(count);
  group_.reserve(count);
}

void InstanceState::Execute(TRITONBACKEND_Request** requests, size_t count) noexcept {
  uint64_t exec_start = NowNs();
  for (size_t i = 0; i < count; ++i) {
    RequestWork& work = works_[i];
    work.Begin(requests[i]);
    work.error = Guard([&] { work.Read(signature_); });
    if (work.error != nullptr) work.Finish(instance_);
  }
  for (NextGroup(count); !group_.empty(); NextGroup(count)) {
    RunGroup(exec_start);
    for (RequestWork* work : group_) work->Finish(instance_);
    exec_start = NowNs();
  }
}

// The first request that is still to be answered and all that can share its run. The scheduler
// batches equal shapes, so this is nearly always all of them; ragged ones run apart.
void InstanceState::NextGroup(size_t count) {
  group_.clear();
  for (size_t i = 0; i < count; ++i) {
    RequestWork& work = works_[i];
    if (work.done) continue;
    if (group_.empty() || work.FitsWith(*group_[0], signature_)) group_.push_back(&work);
  }
}

// When a run of several requests fails, each runs alone, so that only the guilty one fails.
void InstanceState::RunGroup(uint64_t exec_start) noexcept {
  TRITONSERVER_Error* error = TryRun(group_.data(), group_.size(), exec_start);
  if (error == nullptr) return;
  if (group_.size() == 1) {
    group_[0]->error = error;
    return;
  }
  Log(TRITONSERVER_LOG_VERBOSE, "model '" + signature_.model + "': a batch of " +
                                    std::to_string(group_.size()) +
                                    " requests failed and is run one by one: " +
                                    TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  for (RequestWork* work : group_) work->error = TryRun(&work, 1, NowNs());
}

TRITONSERVER_Error* InstanceState::TryRun(RequestWork* const* works, size_t count,
                                          uint64_t exec_start) noexcept {
  TRITONSERVER_Error* error = Guard([&] { run_.Run(works, count); });
  if (error != nullptr) return error;
  uint64_t rows = 0;
  for (size_t i = 0; i < count; ++i) {
    works[i]->times.exec_start = exec_start;
    rows += static_cast<uint64_t>(works[i]->batch);
  }
  const RunTimes& times = works[0]->times;
  LogIfError(TRITONBACKEND_ModelInstanceReportBatchStatistics(
                 instance_, rows, times.exec_start, times.compute_start, times.compute_end,
                 times.exec_end),
             "reporting batch statistics");
  return nullptr;
}

}  // namespace ort_backend
