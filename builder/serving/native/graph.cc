#include "graph.h"

#include "failure.h"

namespace ort_backend {
namespace {

using CountFn = OrtStatus* (*)(const OrtSession*, size_t*);
using NameFn = OrtStatus* (*)(const OrtSession*, size_t, OrtAllocator*, char**);
using TypeFn = OrtStatus* (*)(const OrtSession*, size_t, OrtTypeInfo**);

GraphTensor ReadTensor(std::string name, const OrtTypeInfo* info) {
  GraphTensor tensor{std::move(name), nullptr, {}, {}};
  int kind = 0;
  Check(Ort().GetOnnxTypeFromTypeInfo(info, &kind), "reading a tensor's kind");
  if (kind != kOrtTypeTensor) return tensor;
  const OrtTensorTypeAndShapeInfo* shape = nullptr;
  Check(Ort().CastTypeInfoToTensorInfo(info, &shape), "reading a tensor's type");
  OrtElementType element = kOrtUndefined;
  Check(Ort().GetTensorElementType(shape, &element), "reading an element type");
  tensor.type = FindDataType(element);
  size_t rank = 0;
  Check(Ort().GetDimensionsCount(shape, &rank), "reading a rank");
  tensor.dims.resize(rank);
  Check(Ort().GetDimensions(shape, tensor.dims.data(), rank), "reading dims");
  std::vector<const char*> symbols(rank);
  Check(Ort().GetSymbolicDimensions(shape, symbols.data(), rank), "reading symbolic dims");
  for (const char* symbol : symbols) tensor.symbols.emplace_back(symbol == nullptr ? "" : symbol);
  for (int64_t& dim : tensor.dims) {
    if (dim < 0) dim = -1;
  }
  return tensor;
}

std::vector<GraphTensor> ReadTensors(const OrtSession* session, CountFn count_of, NameFn name_of,
                                     TypeFn type_of) {
  size_t count = 0;
  Check(count_of(session, &count), "counting tensors");
  std::vector<GraphTensor> tensors;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    Check(name_of(session, i, OrtRuntime::Allocator(), &name), "reading a tensor's name");
    std::string text(name);
    LogIfError(Ort().AllocatorFree(OrtRuntime::Allocator(), name), "freeing a name");
    OrtTypeInfo* info = nullptr;
    Check(type_of(session, i, &info), "reading a tensor's type");
    const TypeInfoPtr owner(info);
    tensors.push_back(ReadTensor(std::move(text), info));
  }
  return tensors;
}

}  // namespace

Graph Graph::Of(const OrtSession* session) {
  const OrtFunctions& ort = Ort();
  Graph graph;
  graph.inputs = ReadTensors(session, ort.SessionGetInputCount, ort.SessionGetInputName,
                             ort.SessionGetInputTypeInfo);
  graph.outputs = ReadTensors(session, ort.SessionGetOutputCount, ort.SessionGetOutputName,
                              ort.SessionGetOutputTypeInfo);
  graph.initializers = ReadTensors(session, ort.SessionGetOverridableInitializerCount,
                                   ort.SessionGetOverridableInitializerName,
                                   ort.SessionGetOverridableInitializerTypeInfo);
  return graph;
}

const GraphTensor* FindTensor(const std::vector<GraphTensor>& tensors, const std::string& name) {
  for (const GraphTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

std::string NameList(const std::vector<GraphTensor>& tensors) {
  std::string text;
  for (const GraphTensor& tensor : tensors) {
    text += (text.empty() ? "'" : ", '") + tensor.name + "'";
  }
  return text.empty() ? "none" : text;
}

}  // namespace ort_backend
