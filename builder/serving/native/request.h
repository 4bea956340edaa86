// One request on its way through an instance: checked on arrival, answered exactly once.
#pragma once

#include <cstdint>
#include <vector>

#include "signature.h"
#include "triton_api.h"

namespace ort_backend {

struct InputView {
  TRITONBACKEND_Input* handle;  // null: an optional input that the request leaves out
  const int64_t* shape;
  uint32_t rank;
  uint64_t byte_size;
  uint32_t buffer_count;
};

struct RunTimes {
  uint64_t exec_start = 0;
  uint64_t compute_start = 0;
  uint64_t compute_end = 0;
  uint64_t exec_end = 0;
};

uint64_t NowNs();

// Memory is kept from one request to the next, so that a steady load allocates nothing here.
struct RequestWork {
  TRITONBACKEND_Request* request = nullptr;
  TRITONBACKEND_Response* response = nullptr;
  TRITONSERVER_Error* error = nullptr;  // owned; set when the request has failed
  bool done = false;
  int64_t batch = 1;              // rows of this request along the batch dim
  std::vector<InputView> inputs;  // parallel to Signature::inputs
  std::vector<char> wanted;       // parallel to Signature::outputs
  RunTimes times;

  void Begin(TRITONBACKEND_Request* new_request);

  // Reads the request's inputs and requested outputs. Throws a Failure that names the model, the
  // tensor, and what was expected and given.
  void Read(const Signature& signature);

  // Whether the two can share one run: same inputs, same dims after the batch dim.
  bool FitsWith(const RequestWork& other, const Signature& signature) const;

  // A response's outputs cannot be taken back, so it is opened only to be filled and sent.
  void OpenResponse();

  // Reports the statistics, sends the response or the error, and releases the request.
  void Finish(TRITONBACKEND_ModelInstance* instance);
};

}  // namespace ort_backend
