"""Tracing a module of any size: its weights are neither held nor folded.

The parameters are fake while the module is traced, and inputs of the graph while it is folded,
so that nothing asks for their values. What comes out is a skeleton: the stage's own inputs come
first, one input per weight follows. `builder.export.external` gives the weights their places.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import ExportError
from builder.export.trace import name_dims, run_exporter, strip
from builder.stage import Stage
from builder.stored import DTYPES

if TYPE_CHECKING:
    import onnx
    import torch


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A graph without weights.

    Attributes:
        model: The graph; each weight is an input of the parameter's name.
        weights: Names of the weights that the graph reads.
        parameters: Number of values in them.
        seconds: What tracing and folding took.
    """

    model: "onnx.ModelProto"
    weights: tuple[str, ...]
    parameters: int
    seconds: float


def trace_skeleton(stage: Stage, module: "torch.nn.Module") -> Skeleton:
    """Trace a module whose parameters are on the `meta` device.

    Args:
        module: In eval mode, with real buffers, as `StoredWeights.module` makes it. Its
            parameters are fake afterwards.

    Raises:
        ExportError: The exporter failed, or a buffer is not real.
    """
    start = time.perf_counter()
    if left := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        raise ExportError(f"the buffers {', '.join(left)} have no values", where=stage.name)
    first_names = _fake_parameters(module)
    program = run_exporter(stage, module, optimize=False)
    model = program.model
    del program
    weights = _weights_to_inputs(model, first_names)
    parameters = sum(_size(value) for value in weights.values())
    _fold(model)
    proto = _to_proto(model)
    read = {name for node in proto.graph.node for name in node.input}
    unused = {name for name in weights if name not in read}
    kept = [value for value in proto.graph.input if value.name not in unused]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    names = tuple(name for name in weights if name not in unused)
    name_dims(stage, strip(proto), weights=len(names))
    return Skeleton(proto, names, parameters, time.perf_counter() - start)


def set_types(model: "onnx.ModelProto", dtypes: Mapping[str, str]) -> None:
    """Give weights of a skeleton another data type; the graph goes on computing in FP32.

    A Cast stands directly before the first node that reads the weight.

    Args:
        dtypes: Weight -> data type as safetensors calls it.
    """
    import onnx
    from onnx import helper

    inputs = {value.name: value for value in model.graph.input}
    casts: dict[str, onnx.NodeProto] = {}
    for name, dtype in dtypes.items():
        kind = onnx.TensorProto.DataType.Value(DTYPES[dtype][1])
        inputs[name].type.tensor_type.elem_type = kind
        if kind != onnx.TensorProto.FLOAT:
            casts[name] = helper.make_node(
                "Cast", [name], [f"{name}_fp32"], name=f"cast_{name}", to=onnx.TensorProto.FLOAT
            )
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in casts:
                if name not in done:
                    nodes.append(casts[name])
                    done.add(name)
                node.input[index] = f"{name}_fp32"
        nodes.append(node)
    if done:
        kept = [_copy(node) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(kept)


def check_skeleton(model: "onnx.ModelProto", where: str) -> None:
    """Run the full ONNX checker, strict shape inference included; no weight is needed.

    Raises:
        ExportError: It refuses the graph.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ExportError(f"the ONNX checker refuses the graph: {error}", where=where) from error


def _fake_parameters(module: "torch.nn.Module") -> dict[str, str]:
    """Put fake tensors on the CPU in the place of parameters on the `meta` device.

    Returns:
        Every name of a parameter -> its first one; a tied weight has several.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    fakes: dict[int, torch.nn.Parameter] = {}
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        names[name] = first.setdefault(id(parameter), name)
        if id(parameter) not in fakes:
            fake = mode.fake_tensor_converter.from_meta_and_device(
                mode, parameter.detach(), torch.device("cpu")
            )
            fakes[id(parameter)] = torch.nn.Parameter(fake, requires_grad=False)
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, fakes[id(parameter)])
    return names


def _weights_to_inputs(model: Any, first_names: Mapping[str, str]) -> dict[str, Any]:
    """Take the fake initialisers out of the graph; they become inputs of it."""
    from torch._subclasses.fake_tensor import FakeTensor

    weights: dict[str, Any] = {}
    for name, value in list(model.graph.initializers.items()):
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            value.const_value = None
            del model.graph.initializers[name]
            model.graph.inputs.append(value)
            value.name = first_names[name]
            weights[value.name] = value
    return weights


def _size(value: Any) -> int:
    size = 1
    for dim in value.shape:
        size *= int(dim)
    return size


def _fold(model: Any) -> None:
    """Fold constants and remove what is redundant.

    The exporter's own optimiser takes minutes at 57 blocks. Shapes have to be inferred in
    between, or sequences, which TensorRT does not take, would not become plain Splits.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.ClearMetadataAndDocStringPass()(model)  # source lines, which are most of its size
    with _quiet_inference():
        for infer in (False, True, True):
            if infer:
                common.ShapeInferencePass()(model)
            optimizer.fold_constants(model)
            common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


@contextmanager
def _quiet_inference() -> Iterator[None]:
    import logging

    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _to_proto(model: Any) -> "onnx.ModelProto":
    import onnx_ir

    proto: onnx.ModelProto = onnx_ir.serde.serialize_model(model)
    return proto


def _copy(node: "onnx.NodeProto") -> "onnx.NodeProto":
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
