"""A Triton repository of small ONNX models, one per feature of the native backend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None]

# Triton's name of every type that the backend serves, with ONNX's.
DTYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "STRING": TensorProto.STRING,
}
FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64

DYNAMIC = "dynamic_batching { max_queue_delay_microseconds: 2000 }"
EIGHT = "dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 3000000 }"


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Dims]],
    outputs: Sequence[tuple[str, int, Dims]],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def tensor_config(kind: str, name: str, dtype: str, dims: Sequence[int], extra: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: {list(dims)} {extra} }}\n'


class Zoo:
    """Writes models into a repository folder."""

    def __init__(self, root: Path):
        self.root = root

    def add(
        self, name: str, model: onnx.ModelProto | bytes | None, config: str | None = None
    ) -> None:
        version = self.root / name / "1"
        version.mkdir(parents=True)
        if isinstance(model, onnx.ModelProto):
            model = model.SerializeToString()
        if model is not None:
            (version / "model.onnx").write_bytes(model)
        if config is not None:
            (self.root / name / "config.pbtxt").write_text(f'backend: "onnxruntime"\n{config}\n')


def identity(dtype: int, dims: Dims) -> onnx.ModelProto:
    return make_model(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, dims)], [("y", dtype, dims)]
    )


def affine(dims: Dims = ("T", 25)) -> onnx.ModelProto:
    """y = 2x + 1, total = the sum of y as [1]."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["x2"]),
        helper.make_node("Add", ["x2", "one"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["s"], keepdims=0),
        helper.make_node("Reshape", ["s", "shape"], ["total"]),
    ]
    weights = {"two": np.float32(2), "one": np.float32(1), "shape": np.array([1], np.int64)}
    weights = {name: np.asarray(value) for name, value in weights.items()}
    return make_model(
        nodes, [("x", FLOAT, dims)], [("y", FLOAT, dims), ("total", FLOAT, [1])], weights
    )


def running_sum() -> onnx.ModelProto:
    """y = the cumulative sum of x [N,T,3] over T, last = its last row [N,3]."""
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["y"]),
        helper.make_node("Gather", ["y", "end"], ["last"], axis=1),
    ]
    weights = {"axis": np.array(1, np.int64), "end": np.array(-1, np.int64)}
    return make_model(
        nodes,
        [("x", FLOAT, ["N", "T", 3])],
        [("y", FLOAT, ["N", "T", 3]), ("last", FLOAT, ["N", 3])],
        weights,
    )


def lookup() -> onnx.ModelProto:
    """y = table[index] fails for an index outside of 0..9; safe = 2 * index never does."""
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["y"]),
        helper.make_node("Add", ["index", "index"], ["safe"]),
    ]
    return make_model(
        nodes,
        [("index", INT64, ["N", 1])],
        [("y", FLOAT, ["N", 1]), ("safe", INT64, ["N", 1])],
        {"table": np.arange(10, dtype=np.float32) * 100},
    )


def accumulate(with_start: bool) -> onnx.ModelProto:
    """sum = state + x; with the start control the state of a new sequence is ignored."""
    inputs = [("x", FLOAT, ["N", 1]), ("state_in", FLOAT, ["N", 1])]
    nodes = []
    state = "state_in"
    if with_start:
        inputs.append(("START", FLOAT, ["N", 1]))
        nodes += [
            helper.make_node("Sub", ["one", "START"], ["keep"]),
            helper.make_node("Mul", ["state_in", "keep"], ["kept"]),
        ]
        state = "kept"
    nodes += [
        helper.make_node("Add", [state, "x"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["state_out"]),
    ]
    return make_model(
        nodes,
        inputs,
        [("sum", FLOAT, ["N", 1]), ("state_out", FLOAT, ["N", 1])],
        {"one": np.array(1, np.float32)},
    )


def history() -> onnx.ModelProto:
    """y = state, x: everything that the sequence has brought so far."""
    nodes = [
        helper.make_node("Concat", ["state_in", "x"], ["y"], axis=1),
        helper.make_node("Identity", ["y"], ["state_out"]),
    ]
    return make_model(
        nodes,
        [("x", FLOAT, ["N", 1]), ("state_in", FLOAT, ["N", "H"])],
        [("y", FLOAT, ["N", "G"]), ("state_out", FLOAT, ["N", "G"])],
    )


def exclaim() -> onnx.ModelProto:
    """y = x + "!" for every string."""
    return make_model(
        [helper.make_node("StringConcat", ["x", "mark"], ["y"])],
        [("x", TensorProto.STRING, ["N", "L"])],
        [("y", TensorProto.STRING, ["N", "L"])],
        {"mark": np.array(["!"], dtype=object)},
    )


def doubled() -> onnx.ModelProto:
    """y = x behind x, declared to be as long as x."""
    return make_model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [("x", FLOAT, ["T"])],
        [("y", FLOAT, ["T"])],
    )


def positives() -> onnx.ModelProto:
    """y = the positive elements of x, declared to be as many as x has."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Compress", ["x", "positive"], ["y"], axis=0),
    ]
    return make_model(
        nodes, [("x", FLOAT, ["T"])], [("y", FLOAT, ["T"])], {"zero": np.array(0, np.float32)}
    )


def slow() -> onnx.ModelProto:
    """y = x @ w @ w @ ...: the better part of a second."""
    nodes = [
        helper.make_node("MatMul", [f"p{i}" if i else "x", "w"], ["y" if i == 19 else f"p{i + 1}"])
        for i in range(20)
    ]
    weights = {"w": np.eye(1200, dtype=np.float32)}
    shape = [1200, 1200]
    return make_model(nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], weights)


def mixed() -> onnx.ModelProto:
    """y = value where flag, else -value; the flags take an odd number of bytes."""
    nodes = [
        helper.make_node("Neg", ["value"], ["negative"]),
        helper.make_node("Where", ["flag", "value", "negative"], ["y"]),
    ]
    return make_model(
        nodes, [("flag", TensorProto.BOOL, [3]), ("value", INT64, [3])], [("y", INT64, [3])]
    )


def scaled() -> onnx.ModelProto:
    """y = x * scale, where a request may override the scale of 3."""
    return make_model(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        [("x", FLOAT, ["T"]), ("scale", FLOAT, [1])],
        [("y", FLOAT, ["T"])],
        {"scale": np.array([3], np.float32)},
    )


def scalar() -> onnx.ModelProto:
    """y = factor * the sum of x, where factor and y have rank 0."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "factor"], ["y"]),
    ]
    return make_model(nodes, [("x", FLOAT, ["T"]), ("factor", FLOAT, [])], [("y", FLOAT, [])])


def first_row() -> onnx.ModelProto:
    """Loses the batch dim that its output declares."""
    return make_model(
        [helper.make_node("Slice", ["x", "zero", "one"], ["y"])],
        [("x", FLOAT, ["N", 2])],
        [("y", FLOAT, ["N", 2])],
        {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)},
    )


def good_models(zoo: Zoo) -> None:
    """Everything that has to load."""
    for dtype, onnx_type in DTYPES.items():
        io = tensor_config("input", "x", dtype, [-1]) + tensor_config("output", "y", dtype, [-1])
        zoo.add(
            f"identity_{dtype}",
            identity(onnx_type, ["N", "L"]),
            f"max_batch_size: 8 {DYNAMIC} {io}",
        )
        io = tensor_config("input", "x", dtype, [2, -1]) + tensor_config(
            "output", "y", dtype, [2, -1]
        )
        zoo.add(f"plain_{dtype}", identity(onnx_type, [2, "L"]), io)
    affine_io = (
        tensor_config("input", "x", "FP32", [-1, 25])
        + tensor_config("output", "y", "FP32", [-1, 25])
        + tensor_config("output", "total", "FP32", [1])
    )
    for name, extra in {
        "affine": "",
        "cached": "response_cache { enable: true }",
        "counted": "",
        "instances": "instance_group { kind: KIND_CPU count: 3 }",
        "shared": 'parameters { key: "share_session_between_instances" '
        'value { string_value: "true" } } instance_group { kind: KIND_CPU count: 3 }',
        "tuned": _TUNED,
    }.items():
        zoo.add(name, affine(), f"{affine_io} {extra}")
    sum_io = (
        tensor_config("input", "x", "FP32", [-1, 3])
        + tensor_config("output", "y", "FP32", [-1, 3])
        + tensor_config("output", "last", "FP32", [3])
    )
    batched = f"max_batch_size: 16 {DYNAMIC}"
    zoo.add(
        "running_sum",
        running_sum(),
        f"{batched} {sum_io} {_WARMUP} instance_group {{ kind: KIND_CPU count: 2 }}",
    )
    ragged_io = sum_io.replace("dims: [-1, 3] ", "dims: [-1, 3] allow_ragged_batch: true", 1)
    zoo.add("ragged", running_sum(), f"max_batch_size: 8 {EIGHT} {ragged_io}")
    lookup_io = (
        tensor_config("input", "index", "INT64", [1])
        + tensor_config("output", "y", "FP32", [1])
        + tensor_config("output", "safe", "INT64", [1])
    )
    zoo.add("lookup", lookup(), f"max_batch_size: 8 {EIGHT} {lookup_io}")
    zoo.add("lookup_alone", lookup(), f"max_batch_size: 8 {lookup_io}")
    sequence_models(zoo)
    text_io = tensor_config("input", "x", "STRING", [-1]) + tensor_config(
        "output", "y", "STRING", [-1]
    )
    zoo.add("exclaim", exclaim(), f"{batched} {text_io}")
    line_io = tensor_config("input", "x", "FP32", [-1]) + tensor_config("output", "y", "FP32", [-1])
    zoo.add("doubled", doubled(), line_io)
    zoo.add("positives", positives(), line_io)
    shape = [1200, 1200]
    zoo.add(
        "slow",
        slow(),
        tensor_config("input", "x", "FP32", shape)
        + tensor_config("output", "y", "FP32", shape)
        + "instance_group { kind: KIND_CPU count: 1 } "
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
    )
    zoo.add(
        "scaled", scaled(), line_io + tensor_config("input", "scale", "FP32", [1], "optional: true")
    )
    zoo.add(
        "mixed",
        mixed(),
        tensor_config("input", "flag", "BOOL", [3])
        + tensor_config("input", "value", "INT64", [3])
        + tensor_config("output", "y", "INT64", [3]),
    )
    zoo.add(
        "first_row",
        first_row(),
        "max_batch_size: 4 "
        + tensor_config("input", "x", "FP32", [2])
        + tensor_config("output", "y", "FP32", [2]),
    )
    reshape = "reshape { shape: [2, 2] }"
    zoo.add(
        "reshaped",
        identity(FLOAT, [2, 2]),
        tensor_config("input", "x", "FP32", [4], reshape)
        + tensor_config("output", "y", "FP32", [4], reshape),
    )
    zoo.add("auto_batched", identity(FLOAT, ["batch", 4]))
    zoo.add("auto_series", running_sum_over_rows())
    zoo.add("auto_scalar", scalar())
    zoo.add("auto_by_rank", affine(("rows", 25)), affine_io)
    # What auto-complete does not touch has to survive it.
    odd = r'parameters { key: "k\"e\\y \n" value { string_value: "ü\t\001/\360\237\233\260" } }'
    zoo.add("auto_types", affine(), f'input {{ name: "x" }} output {{ name: "y" }} {odd}')


def running_sum_over_rows() -> onnx.ModelProto:
    """First dims are dynamic but differ: one batch dim they are not."""
    return make_model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [("x", FLOAT, ["T", 2])],
        [("y", FLOAT, ["U", 2])],
    )


_WARMUP = (
    'model_warmup { name: "w" batch_size: 3 inputs { key: "x" '
    "value { data_type: TYPE_FP32 dims: [5, 3] random_data: true } } }"
)

_TUNED = "optimization { graph { level: 1 } }\n" + "\n".join(
    f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
    for key, value in {
        "intra_op_thread_count": "2",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "1",
        "enable_mem_pattern": "0",
        "memory.enable_memory_arena_shrinkage": "cpu:0",
        "session.use_device_allocator_for_initializers": "1",
        "no_such_parameter": "7",
    }.items()
)


def sequence_models(zoo: Zoo) -> None:
    io = tensor_config("input", "x", "FP32", [1]) + tensor_config("output", "sum", "FP32", [1])
    state = 'state { input_name: "state_in" output_name: "state_out" data_type: TYPE_FP32 dims: [1]'
    initial = f'{state} initial_state {{ name: "initial" data_type: TYPE_FP32 dims: [1]'
    zero = f"{initial} zero_data: true }} }}"
    file = f'{initial} data_file: "ten" }} }}'
    start = (
        'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START '
        "fp32_false_true: [0, 1] } }"
    )
    for name, strategy, states, with_start in (
        ("sequence_oldest", "oldest { max_candidate_sequences: 16 }", zero, False),
        ("sequence_direct", "direct { }", f"{state} }} {start}", True),
        ("sequence_file", "direct { }", file, False),
    ):
        zoo.add(
            name,
            accumulate(with_start),
            f"max_batch_size: 4 {io} sequence_batching {{ {strategy} {states} }}",
        )
    io = tensor_config("input", "x", "FP32", [1]) + tensor_config("output", "y", "FP32", [-1])
    growing = (
        'state { input_name: "state_in" output_name: "state_out" data_type: TYPE_FP32 dims: [-1] '
        'initial_state { name: "initial" data_type: TYPE_FP32 dims: [1] zero_data: true } }'
    )
    zoo.add(
        "sequence_growing",
        history(),
        f"max_batch_size: 4 {io} sequence_batching {{ oldest {{ }} {growing} }}",
    )
    folder = zoo.root / "sequence_file" / "initial_state"
    folder.mkdir()
    (folder / "ten").write_bytes(np.array([10], np.float32).tobytes())


def bad_models(zoo: Zoo) -> dict[str, tuple[str, ...]]:
    """Models that must not load, with what the message has to say."""
    io = tensor_config("input", "x", "FP32", [-1, 25])
    io += tensor_config("output", "y", "FP32", [-1, 25])
    good = affine().SerializeToString()
    zoo.add("bad_truncated", good[: len(good) // 2], io)
    zoo.add("bad_empty", b"", io)
    zoo.add("bad_text", b"this is not a model", io)
    zoo.add("bad_missing", None, io)
    zoo.add("bad_dims", good, io.replace("[-1, 25]", "[-1, 24]", 1))
    zoo.add("bad_rank", good, f"max_batch_size: 4 {io}")
    zoo.add("bad_type", good, io.replace("FP32", "FP64", 1))
    zoo.add("bad_input", good, io.replace('"x"', '"z"'))
    zoo.add("bad_output", good, io.replace('"y"', '"z"'))
    zoo.add("bad_level", good, f"{io} optimization {{ graph {{ level: 7 }} }}")
    zoo.add(
        "bad_threads",
        good,
        io + 'parameters { key: "intra_op_thread_count" value { string_value: "two" } }',
    )
    zoo.add(
        "bad_operator",
        make_model(
            [helper.make_node("Nonesuch", ["x"], ["y"], domain="nowhere")],
            [("x", FLOAT, ["T", 25])],
            [("y", FLOAT, ["T", 25])],
        ),
        io,
    )
    zoo.add("bad_library", good, f'{io} model_operations {{ op_library_filename: "gone.so" }}')
    zoo.add(
        "bad_batch_input",
        good,
        f"{io} batch_input {{ kind: BATCH_ELEMENT_COUNT "
        'target_name: "n" data_type: TYPE_INT32 source_input: "x" }',
    )
    return {
        "bad_truncated": ("bad_truncated/1/model.onnx", "damaged"),
        "bad_empty": ("bad_empty/1/model.onnx", "(0 bytes)", "damaged"),
        "bad_text": ("bad_text/1/model.onnx", "damaged"),
        "bad_missing": ("bad_missing/1/model.onnx",),
        "bad_dims": ("'x'", "[-1,24]", "[-1,25]", "model.onnx"),
        "bad_rank": ("'x'", "[-1,25]", "max_batch_size 4"),
        "bad_type": ("'x'", "TYPE_FP64", "TYPE_FP32"),
        "bad_input": ("'z'", "inputs 'x'"),
        "bad_output": ("'z'", "outputs 'y', 'total'"),
        "bad_level": ("optimization.graph.level", "7"),
        "bad_threads": ("intra_op_thread_count", "'two'"),
        "bad_operator": ("bad_operator/1/model.onnx", "Nonesuch"),
        "bad_library": ("gone.so", "custom operator library"),
        "bad_batch_input": ("batch_input",),
    }
