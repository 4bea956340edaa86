"""The stage `preprocessing_onnx`: fills telemetry drop-outs before a detector sees them.

A row with NaN or Inf is replaced by the last valid row before it, leading invalid rows by the
first valid row, and telemetry without any valid row by zeros. `sample_valid` tells which rows
are as they were sent.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import FEATURES
from builder.families.anomaly.models.detector import telemetry_window
from builder.stage import Arrays, OnnxSource, Range, Shape, Stage, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

NAME = "preprocessing_onnx"
OPSET = 18
"""The first opset in which ReduceMin takes its axes as an input; every runtime in use has it."""


def stages(config: Config) -> Iterable[Stage]:
    """The one stage of this module."""
    return (
        Stage(
            name=NAME,
            family="anomaly",
            inputs=(Tensor("telemetry", "FP32", ("T", FEATURES)),),
            outputs=(
                Tensor("input_data", "FP32", ("T", FEATURES)),
                Tensor("sample_valid", "BOOL", ("T",)),
            ),
            source=OnnxSource(build=build, reference=reference, code=(__name__,)),
            example=example,
            shapes=({"T": 100}, {"T": 1}, {"T": 731}),
            tolerance=Tolerance(atol=0.0),
            profile={"T": Range(1, 100, 8640)},
            metadata={"description": "fills NaN and Inf with the last valid sample"},
        ),
    )


def build() -> "onnx.ModelProto":
    """The graph; its memory grows linearly with T.

    With `valid` the rows that are finite, `number` their running count and `rows` the positions
    of the valid rows, row t comes from `rows[max(number[t] - 1, 0)]`. One more row of zeros at
    position T ends the list, so that the look-up also works where no row is valid.
    """
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> None:
        constants.append(numpy_helper.from_array(values, name))

    constants: list[onnx.TensorProto] = []
    constant("largest", np.array(np.finfo(np.float32).max))
    constant("features", np.array([1], np.int64))
    constant("time", np.array(0, np.int64))
    constant("one", np.array(1, np.int64))
    constant("minus_one", np.array([-1], np.int64))
    constant("nothing", np.array(0, np.int64))
    constant("zero_row", np.zeros((1, FEATURES), np.float32))
    node = helper.make_node
    nodes = [
        # A comparison with NaN is false, so this one test finds NaN and both infinities.
        node("Abs", ["telemetry"], ["magnitude"]),
        node("LessOrEqual", ["magnitude", "largest"], ["finite"]),
        node("Cast", ["finite"], ["finite_number"], to=TensorProto.INT32),
        node("ReduceMin", ["finite_number", "features"], ["valid_number"], keepdims=0),
        node("Cast", ["valid_number"], ["sample_valid"], to=TensorProto.BOOL),
        # CumSum and NonZero take no integers and no BOOL in TensorRT; FP32 counts to 2**24.
        node("Cast", ["valid_number"], ["valid_count"], to=TensorProto.FLOAT),
        node("CumSum", ["valid_count", "time"], ["running_count"]),
        node("Cast", ["running_count"], ["number"], to=TensorProto.INT64),
        node("Sub", ["number", "one"], ["previous"]),
        node("Max", ["previous", "nothing"], ["place"]),
        node("NonZero", ["valid_count"], ["valid_rows_2d"]),
        node("Reshape", ["valid_rows_2d", "minus_one"], ["valid_rows"]),
        node("Shape", ["telemetry"], ["length"], start=0, end=1),
        node("Concat", ["valid_rows", "length"], ["rows"], axis=0),
        node("Gather", ["rows", "place"], ["source"], axis=0),
        node("Concat", ["telemetry", "zero_row"], ["padded"], axis=0),
        node("Gather", ["padded", "source"], ["input_data"], axis=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        NAME,
        [value("telemetry", TensorProto.FLOAT, ["T", FEATURES])],
        [
            value("input_data", TensorProto.FLOAT, ["T", FEATURES]),
            value("sample_valid", TensorProto.BOOL, ["T"]),
        ],
        constants,
    )
    opset = helper.make_opsetid("", OPSET)
    # The IR version that belongs to the opset: the newest one is unknown to older runtimes.
    ir_version = helper.find_min_ir_version_for([opset])
    model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)
    checker.check_model(model, full_check=True)
    return model


def reference(arrays: Arrays) -> Arrays:
    """The same by walking through the rows, the plainest way to say it."""
    import numpy as np

    telemetry = arrays["telemetry"]
    valid = np.isfinite(telemetry).all(axis=1)
    filled = np.zeros_like(telemetry)
    if valid.any():
        last = telemetry[np.flatnonzero(valid)[0]]
        for t, row in enumerate(telemetry):
            last = row if valid[t] else last
            filled[t] = last
    return {"input_data": filled, "sample_valid": valid}


def example(shape: Shape, generator: "np.random.Generator") -> Arrays:
    """Telemetry in which about every seventh sample has NaN or Inf in one feature."""
    import numpy as np

    samples = shape["T"]
    telemetry = telemetry_window(samples, generator)
    invalid = generator.random(samples) < 1 / 7
    invalid[:1] = samples > 1  # the first one too, which has no sample before it
    features = generator.integers(0, FEATURES, samples)
    drop_outs = generator.choice([np.nan, np.inf, -np.inf], samples)
    telemetry[invalid, features[invalid]] = drop_outs[invalid]
    return {"telemetry": telemetry}
