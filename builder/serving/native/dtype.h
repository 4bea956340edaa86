// Element types: Triton's enum, ONNX Runtime's enum, the name in config.pbtxt, the size.
#pragma once

#include <cstdint>
#include <string>

#include "ort_api.h"
#include "triton_api.h"

namespace ort_backend {

struct DataType {
  TRITONSERVER_DataType triton;
  OrtElementType ort;
  const char* config_name;  // as in config.pbtxt, e.g. TYPE_FP32
  uint32_t byte_size;       // of one element; 0 for BYTES, whose elements vary

  bool IsBytes() const { return triton == TRITONSERVER_TYPE_BYTES; }
};

// Each returns null when there is no such type or it cannot be served.
const DataType* FindDataType(TRITONSERVER_DataType triton);
const DataType* FindDataType(OrtElementType ort);
const DataType* FindDataType(const std::string& config_name);

// The name for messages, `TYPE_FP32`, also for types that cannot be served.
std::string DataTypeName(TRITONSERVER_DataType triton);

}  // namespace ort_backend
