#include "dtype.h"

namespace ort_backend {
namespace {

constexpr DataType kTypes[] = {
    {TRITONSERVER_TYPE_BOOL, kOrtBool, "TYPE_BOOL", 1},
    {TRITONSERVER_TYPE_UINT8, kOrtUint8, "TYPE_UINT8", 1},
    {TRITONSERVER_TYPE_UINT16, kOrtUint16, "TYPE_UINT16", 2},
    {TRITONSERVER_TYPE_UINT32, kOrtUint32, "TYPE_UINT32", 4},
    {TRITONSERVER_TYPE_UINT64, kOrtUint64, "TYPE_UINT64", 8},
    {TRITONSERVER_TYPE_INT8, kOrtInt8, "TYPE_INT8", 1},
    {TRITONSERVER_TYPE_INT16, kOrtInt16, "TYPE_INT16", 2},
    {TRITONSERVER_TYPE_INT32, kOrtInt32, "TYPE_INT32", 4},
    {TRITONSERVER_TYPE_INT64, kOrtInt64, "TYPE_INT64", 8},
    {TRITONSERVER_TYPE_FP16, kOrtFloat16, "TYPE_FP16", 2},
    {TRITONSERVER_TYPE_FP32, kOrtFloat, "TYPE_FP32", 4},
    {TRITONSERVER_TYPE_FP64, kOrtDouble, "TYPE_FP64", 8},
    {TRITONSERVER_TYPE_BYTES, kOrtString, "TYPE_STRING", 0},
    {TRITONSERVER_TYPE_BF16, kOrtBfloat16, "TYPE_BF16", 2},
};

}  // namespace

const DataType* FindDataType(TRITONSERVER_DataType triton) {
  for (const DataType& type : kTypes) {
    if (type.triton == triton) return &type;
  }
  return nullptr;
}

const DataType* FindDataType(OrtElementType ort) {
  for (const DataType& type : kTypes) {
    if (type.ort == ort) return &type;
  }
  return nullptr;
}

const DataType* FindDataType(const std::string& config_name) {
  for (const DataType& type : kTypes) {
    if (type.config_name == config_name) return &type;
  }
  return nullptr;
}

std::string DataTypeName(TRITONSERVER_DataType triton) {
  const DataType* type = FindDataType(triton);
  return type == nullptr ? "type " + std::to_string(static_cast<int>(triton)) : type->config_name;
}

}  // namespace ort_backend
