"""An ONNX graph as the rules see it: nodes with the types, shapes and constants around them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import RepositoryError, from_os_error
from builder.lint.tensorrt.fold import fold_integers

if TYPE_CHECKING:
    import onnx

Dims = tuple[int | str | None, ...]

# onnx.TensorProto.DataType -> name; what is not here is called by its ONNX name.
_NAMES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "DOUBLE": "FP64",
    "FLOAT8E4M3FN": "FP8",
    "FLOAT4E2M1": "FP4",
}
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: its data type (None if unknown, SEQUENCE for what is none) and its dims."""

    dtype: str | None
    dims: Dims | None = None


_UNKNOWN = Value(None)


@dataclass(slots=True)
class _Scope:
    values: dict[str, Value] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator.

    Attributes:
        proto: The node itself.
        values: Inputs and outputs of this and of the enclosing graphs, by name.
        constants: Names of those that are known when a plan is built.
    """

    proto: "onnx.NodeProto"
    values: Mapping[str, Value]
    constants: frozenset[str] | set[str]

    @property
    def op(self) -> str:
        """Name of the operator, with its domain where that is not the default one."""
        domain = self.proto.domain
        return (
            self.proto.op_type if domain in ("", "ai.onnx") else f"{domain}::{self.proto.op_type}"
        )

    @property
    def label(self) -> str:
        """The node's name, or what tells it apart."""
        output = next((name for name in self.proto.output if name), "")
        return self.proto.name or (f"{self.proto.op_type} that makes {output}")

    def input(self, position: int) -> Value | None:
        """An input; None if it is left out."""
        names = self.proto.input
        if position >= len(names) or not names[position]:
            return None
        return self.values.get(names[position], _UNKNOWN)

    def output(self, position: int) -> Value | None:
        """An output; None if it is left out."""
        names = self.proto.output
        if position >= len(names) or not names[position]:
            return None
        return self.values.get(names[position], _UNKNOWN)

    def is_constant(self, position: int) -> bool:
        """Whether an input is known when the plan is built, or left out."""
        return self.input(position) is None or self.proto.input[position] in self.constants

    def attribute(self, name: str) -> Any:
        """Value of an attribute, text as str; None if it is not set."""
        from onnx import helper

        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return None


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A model that was read.

    Attributes:
        inputs: Inputs that a caller gives, by name.
        outputs: Its outputs, by name.
        opset: Opset of the default domain.
        nodes: Every node, those inside If, Loop and Scan included; local functions are inlined.
        problem: Why shapes cannot be inferred; empty if they can.
    """

    path: Path
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    opset: int
    nodes: tuple[Node, ...]
    problem: str = ""


def read_graph(path: Path) -> OnnxGraph:
    """Read an ONNX file, without its external data, and infer types and shapes.

    Raises:
        RepositoryError: The file is missing or no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise from_os_error(error, "reading", path) from error
    except DecodeError as error:
        raise RepositoryError("is truncated or no ONNX model", where=path) from error
    if not model.graph.output:
        raise RepositoryError("is no ONNX model: it has no output", where=path)
    return make_graph(model, path)


def make_graph(model: "onnx.ModelProto", path: Path) -> OnnxGraph:
    """The graph of a model that was read from `path`."""
    from onnx import inliner, shape_inference

    problem = ""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        model = shape_inference.infer_shapes(fold_integers(model), data_prop=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises RuntimeError, ValueError and classes of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        problem = lines[0] if lines else type(error).__name__
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    nodes = tuple(_walk(model.graph, _Scope()))
    weights = {i.name for i in model.graph.initializer}
    return OnnxGraph(
        path,
        {v.name: _value(v.type) for v in model.graph.input if v.name not in weights},
        {v.name: _value(v.type) for v in model.graph.output},
        opset,
        nodes,
        problem,
    )


def _walk(graph: "onnx.GraphProto", outer: _Scope) -> Iterator[Node]:
    scope = _Scope(dict(outer.values), set(outer.constants))
    for info in (*graph.input, *graph.value_info, *graph.output):
        scope.values[info.name] = _value(info.type)
    for tensor in graph.initializer:
        scope.values[tensor.name] = Value(dtype_name(tensor.data_type), tuple(tensor.dims))
        scope.constants.add(tensor.name)
    for proto in graph.node:
        node = Node(proto, scope.values, scope.constants)
        if _is_constant(node):
            scope.constants.update(proto.output)
        yield node
        for attribute in proto.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _walk(inner, scope)


def _is_constant(node: Node) -> bool:
    """Whether a node's outputs are known when the plan is built."""
    proto = node.proto
    if proto.op_type.startswith(_RANDOM):
        return False
    if proto.op_type in ("Shape", "Size"):
        value = node.input(0)
        dims = value.dims if value is not None else None
        if dims is not None:
            part = dims[node.attribute("start") or 0 : node.attribute("end")]
            if all(isinstance(dim, int) for dim in part):
                return True
    subgraphs = any(a.HasField("g") or a.graphs for a in proto.attribute)
    return not subgraphs and all(name in node.constants for name in proto.input if name)


def dtype_name(number: int) -> str:
    """onnx.TensorProto.DataType -> FP32, INT64, STRING and so on."""
    from onnx import TensorProto

    name: str = TensorProto.DataType.Name(number)
    return _NAMES.get(name, name)


def _value(proto: "onnx.TypeProto") -> Value:
    if not proto.HasField("tensor_type"):
        return Value("SEQUENCE" if proto.WhichOneof("value") else None)
    tensor = proto.tensor_type
    dtype = dtype_name(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Value(dtype)
    return Value(
        dtype,
        tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None
            for d in tensor.shape.dim
        ),
    )
