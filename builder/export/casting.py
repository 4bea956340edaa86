"""Precision: an FP32 graph as FP16 or BF16, with casts where the precision changes.

TensorRT 11 has no precision flags any more: a strongly typed network computes in the types that
the ONNX graph states. So the graph itself is converted, before the plan is built. Matrix products
and convolutions (`HEAVY`) become 16 bits wide, and so does what follows them as long as nothing
else flows in: an FP32 input that never meets a matrix product is never rounded. Inputs and
outputs keep their types; operators that lose too much in 16 bits (`KEEP`) stay FP32; whatever is
inside control flow stays as it is.

Which tensors of an operator share a type is read from its ONNX schema, so no list of operators
has to be kept, and an operator whose schema does not allow the type simply stays FP32.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import onnx

CASTS = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
"""Precision -> ONNX data type."""

HEAVY = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"})
"""Operators that are worth a cast of their inputs."""

KEEP = frozenset(
    {
        # Sums over many elements, and what divides by them.
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
        *("RMSNormalization", "BatchNormalization", "LpNormalization", "MeanVarianceNormalization"),
        *("Softmax", "LogSoftmax", "CumSum"),
        *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp"),
        # Ranges and slopes that 16 bits cannot hold.
        *("Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Erf", "Range", "Mod"),
        # Comparisons decide; a rounded operand would decide otherwise.
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin", "TopK"),
        # Positions and scales of pixels; casts and constants state their types themselves.
        *("Resize", "GridSample", "Cast", "CastLike", "Constant", "ConstantOfShape"),
        # Recurrent state accumulates.
        *("GRU", "LSTM", "RNN"),
        *("If", "Loop", "Scan", "SequenceMap"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
"""Operators that stay FP32."""

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that only move values: done to a weight, the result is a weight again."""

FP16_MAX = 65504.0


class Weights:
    """How the values of weights are read and written; here, inside the ONNX file."""

    def low(
        self, initialiser: "onnx.TensorProto", name: str, dtype: int
    ) -> "onnx.TensorProto | None":
        """An initialiser in FP16 or BF16; None if a finite value would become infinite.

        Args:
            name: Of the new one.
            dtype: Its ONNX data type.
        """
        import numpy as np
        import onnx
        from onnx import numpy_helper

        values = numpy_helper.to_array(initialiser).astype(np.float32)
        if dtype == onnx.TensorProto.FLOAT16:
            finite = values[np.isfinite(values)]
            if not np.abs(finite).max(initial=0.0) <= FP16_MAX:
                return None
        return _tensor(name, values, dtype)


def cast_model(
    model: "onnx.ModelProto",
    precision: str,
    *,
    where: str,
    keep: Collection[str] = KEEP,
    outline: "onnx.ModelProto | None" = None,
    store: Weights | None = None,
) -> "onnx.ModelProto":
    """Change an FP32 model so that it computes in FP16 or BF16 wherever it may.

    Args:
        model: The model; changed in place, since a copy of it may not fit into memory.
        precision: fp16 or bf16.
        where: The model, for messages.
        keep: Operators, or names of nodes, that stay FP32.
        outline: The same model, if need be without its external weights: for inferring types.
        store: Reads and writes weights that are external.

    Returns:
        The model.

    Raises:
        EngineError: The types of its tensors cannot be inferred.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(
            outline or model, strict_mode=True, data_prop=True
        )
    except Exception as error:
        raise EngineError(f"its types cannot be inferred: {error}", where=where) from error
    types = {v.name: v.type.tensor_type.elem_type for v in _value_infos(inferred.graph)}
    dtype = onnx.TensorProto.DataType.Value(CASTS[precision])
    return _Caster(model, types, dtype, frozenset(keep), store or Weights()).run()


def shared_types(node: "onnx.NodeProto", opset: int) -> Iterator[tuple[str, str, bool, set[str]]]:
    """The tensors of a node with the type variable of its schema that each of them has.

    Yields:
        Tensor, type variable (or a type, where the schema fixes it), whether it is an output,
        and the types that the schema allows. Nothing for operators without a schema.
    """
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for is_output, names, formals in (
        (False, node.input, schema.inputs),
        (True, node.output, schema.outputs),
    ):
        for index, name in enumerate(names):
            formal = formals[min(index, len(formals) - 1)]
            # Only a homogeneous variadic parameter has one type for all its tensors.
            if name and formal.is_homogeneous:
                yield name, formal.type_str, is_output, allowed.get(formal.type_str, set())


def opset_of(model: "onnx.ModelProto") -> int:
    """The version of the standard operators that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


@dataclass(slots=True)
class _Caster:
    """Converts one model.

    Attributes:
        types: Tensor -> its ONNX data type, before the conversion.
        dtype: The ONNX data type to compute in.
        keep: Operators and nodes that stay FP32.
        low: FP32 tensor -> its twin in `dtype`.
        high: Tensors that so far exist in `dtype` only -> the twin that exists.
        born: Tensors that were computed in `dtype`.
        lazy: Weights that a node makes of other ones, by a cast to FP32 or by moving values:
            output -> node. The node is only made in the types that are needed.
    """

    model: "onnx.ModelProto"
    types: dict[str, int]
    dtype: int
    keep: frozenset[str]
    store: Weights
    low: dict[str, str] = field(default_factory=dict)
    high: dict[str, str] = field(default_factory=dict)
    born: set[str] = field(default_factory=set)
    lazy: "dict[str, onnx.NodeProto]" = field(default_factory=dict)
    nodes: "list[onnx.NodeProto]" = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _initialisers: "dict[str, onnx.TensorProto]" = field(default_factory=dict)
    _returned: set[str] = field(default_factory=set)
    _made: set[str] = field(default_factory=set)

    def run(self) -> "onnx.ModelProto":
        import onnx

        graph = self.model.graph
        types = {**self.types, **{i.name: i.data_type for i in graph.initializer}}
        self._names = {*types, *(o for n in graph.node for o in n.output)}
        floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        self._initialisers = {i.name: i for i in graph.initializer}
        self._returned = {output.name for output in graph.output}
        opset = opset_of(self.model)
        for node in graph.node:
            if self._is_lazy(node, floats):
                self.lazy[node.output[0]] = node
                continue
            variables = self._variables(node, opset, floats)
            if not variables:
                for name in {*node.input, *_captured(node)}:
                    self._need_high(name)
                self.nodes.append(node)
                continue
            changed = _copy(node)
            shared = list(shared_types(node, opset))
            variable_of = {(n, o): v for n, v, o, _ in shared}
            for index, name in enumerate(node.input):
                if name in floats and variable_of.get((name, False)) in variables:
                    changed.input[index] = self._need_low(name)
                else:
                    self._need_high(name)
            for index, name in enumerate(node.output):
                if name in floats and variable_of.get((name, True)) in variables:
                    changed.output[index] = self.low[name] = self._new(f"{name}_{self._suffix}")
                    self.high[name] = self.low[name]
                    self.born.add(name)
            self.nodes.append(changed)
        for output in graph.output:
            self._need_high(output.name)
        return self._finish()

    @property
    def _suffix(self) -> str:
        import onnx

        return onnx.TensorProto.DataType.Name(self.dtype).lower()

    def _is_weight(self, name: str, floats: set[str]) -> bool:
        return name in self.lazy or (name in self._initialisers and name in floats)

    def _is_lazy(self, node: "onnx.NodeProto", floats: set[str]) -> bool:
        """Whether a node only makes an FP32 weight of another weight."""
        if len(node.output) != 1 or node.output[0] in self._returned or not node.input:
            return False
        if node.output[0] not in floats or node.name in self.keep:
            return False
        if node.op_type == "Cast":
            source = self._initialisers.get(node.input[0])
            return source is not None and _type_name(source.data_type) in CASTS.values()
        return node.op_type in MOVES and self._is_weight(node.input[0], floats)

    def _variables(self, node: "onnx.NodeProto", opset: int, floats: set[str]) -> set[str]:
        """The type variables of a node that become `dtype`; empty if it stays as it is."""
        data = {n for n in node.input if n in floats and not self._is_weight(n, floats)}
        if node.op_type not in HEAVY and not (data and data <= self.born):
            return set()
        if node.op_type in self.keep or node.name in self.keep or _captured(node):
            return set()
        kind = f"tensor({self._suffix})"
        shared = list(shared_types(node, opset))
        given = {v for n, v, out, ok in shared if not out and n in floats and kind in ok}
        made = {v for n, v, out, _ in shared if out and n in floats}
        # All float outputs must follow from float inputs, or the type would come from elsewhere.
        listed = {n for n, _, out, _ in shared if out}
        complete = all(o in listed for o in node.output if o in floats)
        return given if made and made <= given and complete else set()

    def _need_low(self, name: str) -> str:
        from onnx import helper

        if name in self.low:
            return self.low[name]
        node = self.lazy.get(name)
        if node is not None and node.op_type != "Cast":
            moved = _copy(node)
            moved.name = f"{node.name or name}_{self._suffix}"
            moved.input[0] = self._need_low(node.input[0])
            moved.output[0] = self.low[name] = self._new(f"{name}_{self._suffix}")
            self.nodes.append(moved)
            return self.low[name]
        source = self._initialisers.get(name if node is None else node.input[0])
        if source is not None and source.data_type == self.dtype:
            self.low[name] = source.name  # the Cast to FP32 was all that stood between
            return source.name
        twin = self.low[name] = self._new(f"{name}_{self._suffix}")
        weight = None if source is None else self.store.low(source, twin, self.dtype)
        if weight is not None:
            self.model.graph.initializer.append(weight)
        else:
            self._need_high(name)
            cast = helper.make_node("Cast", [name], [twin], name=f"cast_{twin}", to=self.dtype)
            self.nodes.append(cast)
        return twin

    def _need_high(self, name: str) -> None:
        """Make sure that the FP32 tensor exists before the next node."""
        from onnx import TensorProto, helper

        if node := self.lazy.get(name):
            if name not in self._made:
                self._made.add(name)
                self._need_high(node.input[0])
                self.nodes.append(node)
        elif twin := self.high.pop(name, None):
            cast = helper.make_node(
                "Cast", [twin], [name], name=f"cast_{name}", to=TensorProto.FLOAT
            )
            self.nodes.append(cast)

    def _new(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _finish(self) -> "onnx.ModelProto":
        graph = self.model.graph
        nodes = [_copy(node) for node in self.nodes]  # some are still those of the graph
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]  # stated types that no longer hold
        used = {name for node in graph.node for name in (*node.input, *_captured(node))}
        used |= {output.name for output in graph.output}
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in used:
                del graph.initializer[index]
        return self.model


def _value_infos(graph: "onnx.GraphProto") -> "list[onnx.ValueInfoProto]":
    return [*graph.input, *graph.output, *graph.value_info]


def _copy(node: "onnx.NodeProto") -> "onnx.NodeProto":
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _type_name(kind: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(kind))


def _captured(node: "onnx.NodeProto") -> set[str]:
    """Names that the subgraphs of a node read, their own ones included."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            names |= {o.name for o in graph.output}
            for inner in graph.node:
                names |= {*inner.input, *_captured(inner)}
    return names


def _tensor(name: str, values: "np.ndarray[Any, Any]", dtype: int) -> "onnx.TensorProto":
    import numpy as np
    import onnx

    half = dtype == onnx.TensorProto.FLOAT16
    raw = values.astype(np.float16) if half else bfloat16_bits(values)
    tensor = onnx.TensorProto(name=name, data_type=dtype, dims=values.shape)
    tensor.raw_data = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    return tensor


def bfloat16_bits(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The upper 16 bits of FP32 values, rounded to nearest even, as UINT16; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16).reshape(values.shape)
