"""Models with custom-operator libraries."""

import importlib.util
import json
import subprocess
from pathlib import Path

from native_models import INT64, Zoo, affine, make_model, tensor_config
from onnx import ModelProto, TensorProto, helper

# Registers no operator, but cannot be opened unless the process has Python's symbols, and refuses
# to register if an interpreter runs. Any non-null result would be taken for an error object.
_NEEDS_PYTHON = """
extern "C" int Py_IsInitialized();
extern "C" char _Py_NoneStruct[];
extern "C" __attribute__((visibility("default"))) void* RegisterCustomOps(void*, const void*) {
  if (Py_IsInitialized() || !_Py_NoneStruct) __builtin_trap();
  return nullptr;
}
"""


def find_extensions() -> Path | None:
    """The shared library of onnxruntime-extensions, where that is installed."""
    spec = importlib.util.find_spec("onnxruntime_extensions")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_extensions_pydll*.so"))


def upper() -> ModelProto:
    """y = x in capitals, length = the characters of x."""
    nodes = [
        helper.make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib"),
        helper.make_node("StringLength", ["x"], ["length"], domain="ai.onnx.contrib"),
    ]
    model = make_model(
        nodes,
        [("x", TensorProto.STRING, ["N"])],
        [("y", TensorProto.STRING, ["N"]), ("length", INT64, ["N"])],
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    return model


def tokenizer() -> ModelProto:
    """CLIP token ids over a vocabulary of a handful of words."""
    pieces = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "ab", "ab</w>", "abc</w>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": len(pieces), "<|endoftext|>": len(pieces) + 1}
    merges = ["#version: 0.2", "a b</w>", "a b", "ab c</w>"]
    node = helper.make_node(
        "CLIPTokenizer",
        ["x"],
        ["ids", "mask"],
        domain="ai.onnx.contrib",
        vocab=json.dumps(vocabulary),
        merges="\n".join(merges),
        padding_length=-1,
    )
    model = make_model(
        [node],
        [("x", TensorProto.STRING, ["N"])],
        [("ids", INT64, ["N", "L"]), ("mask", INT64, ["N", "L"])],
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    return model


def operator_models(zoo: Zoo) -> None:
    io = tensor_config("input", "x", "FP32", [-1, 25])
    io += tensor_config("output", "y", "FP32", [-1, 25])
    library = "model_operations {{ op_library_filename: {} }}"
    zoo.add("needs_python", affine(), io + library.format('"operators.so"'))
    source = zoo.root / "operators.cc"
    source.write_text(_NEEDS_PYTHON)
    subprocess.run(
        ["g++", "-shared", "-fPIC", source, "-o", zoo.root / "needs_python" / "operators.so"],
        check=True,
    )
    if (extensions := find_extensions()) is None:
        return
    library = library.format(json.dumps(str(extensions)))
    io = tensor_config("input", "x", "STRING", [-1]) + tensor_config("output", "y", "STRING", [-1])
    io += tensor_config("output", "length", "INT64", [-1])
    zoo.add("upper", upper(), io + library)
    io = tensor_config("input", "x", "STRING", [-1])
    io += tensor_config("output", "ids", "INT64", [-1, -1])
    io += tensor_config("output", "mask", "INT64", [-1, -1])
    zoo.add("tokenizer", tokenizer(), io + library)
