"""One ONNX model that holds the weights of many detectors, and picks among them per sample.

The detectors share one graph. It becomes the body of a loop over the samples of a batch; weights
that differ between detectors are stacked, and the body gathers those of its sample's detector.
So the bank computes what the single models compute, node by node.

A loop, since ONNX Runtime's GRU has one set of weights for a batch, and gains little from one.
What is gained is one set of operators that stays in the cores' caches, and fewer requests:
`scripts/bench_bank.py` measures it.
"""

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from builder.errors import ExportError

if TYPE_CHECKING:
    import onnx

_NO_SUCH_DETECTOR = 2**31 - 1


def bank_of(models: "Sequence[onnx.ModelProto]", features: int) -> "onnx.ModelProto":
    """A model of the inputs `input_data` FP32 [B,T,features] and `channel` INT64 [B,1].

    `channel` counts the given models from 0; another number is an error. The outputs are those of
    the models, with B before their dims.

    Args:
        models: Exports of one graph with the input `input_data`, whose weights differ.

    Raises:
        ExportError: The models are not of one graph.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def info(name: str, kind: int, dims: "Sequence[int | str]") -> "onnx.ValueInfoProto":
        return helper.make_tensor_value_info(name, kind, dims)

    folded = [_fold(model) for model in models]
    graph = folded[0].graph
    initialisers, gathers = _stack(folded)
    constants = {"bank.axis": np.array([1]), "bank.zero": np.array(0), "bank.true": np.array(True)}
    constants["bank.none"] = np.array(_NO_SUCH_DETECTOR)
    initialisers += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["bank.windows", "bank.index"], ["input_data"]),
            helper.make_node("Gather", ["bank.channels", "bank.index"], ["bank.channel"]),
            *gathers,
            *graph.node,
            helper.make_node("Identity", ["bank.true"], ["bank.go_on"]),
        ],
        "sample",
        [info("bank.index", TensorProto.INT64, []), info("bank.before", TensorProto.BOOL, [])],
        [info("bank.go_on", TensorProto.BOOL, []), *graph.output],
    )
    # The loop's own tensors need other names than the body's: the input inside is one window.
    names = [output.name for output in graph.output]
    for output, name in zip(body.output[1:], names, strict=True):
        output.name = f"bank.one.{name}"
    for name in names:
        body.node.append(helper.make_node("Identity", [name], [f"bank.one.{name}"]))
    for node in body.node:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                if name in names or name == "input_data":
                    tensors[position] = f"bank.body.{name}"
    nodes = [
        helper.make_node("Identity", ["input_data"], ["bank.windows"]),
        helper.make_node("Squeeze", ["channel", "bank.axis"], ["bank.asked"]),
        # Gather would count negative numbers from the end.
        helper.make_node("Less", ["bank.asked", "bank.zero"], ["bank.negative"]),
        helper.make_node("Where", ["bank.negative", "bank.none", "bank.asked"], ["bank.channels"]),
        helper.make_node("Size", ["bank.asked"], ["bank.count"]),
        helper.make_node("Loop", ["bank.count", "bank.true"], names, body=body),
    ]
    outputs = [
        info(
            output.name,
            output.type.tensor_type.elem_type,
            ["B", *(d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim)],
        )
        for output in folded[0].graph.output
    ]
    inputs = [
        info("input_data", TensorProto.FLOAT, ["B", "T", features]),
        info("channel", TensorProto.INT64, ["B", 1]),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "bank", inputs, outputs, initialisers),
        opset_imports=[o for o in folded[0].opset_import if o.domain == ""],
        ir_version=folded[0].ir_version,
    )


def _fold(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model with what only depends on weights computed, equally for all weights."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/model.onnx"
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            # It would remove an addition of weights that are 0 for one of the detectors.
            disabled_optimizers=["NoopElimination"],
        )
        return onnx.load(options.optimized_model_filepath)


def _stack(
    models: "Sequence[onnx.ModelProto]",
) -> "tuple[list[onnx.TensorProto], list[onnx.NodeProto]]":
    """Weights of all models, and the nodes that pick one's; renames inputs in the first model."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights = [{i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in models]
    nodes = [list(model.graph.node) for model in models]
    if len({tuple(node.op_type for node in some) for some in nodes}) != 1:
        raise ExportError("the detectors are not of one graph, so they cannot share a bank")
    initialisers, gathers = [], []
    known: dict[tuple[str, ...], str] = {}
    # By position: ONNX Runtime merges constants that are equal, so names differ between models.
    for alike in zip(*nodes, strict=True):
        for position, names in enumerate(zip(*(node.input for node in alike), strict=True)):
            if names[0] not in weights[0]:
                continue
            if names not in known:
                known[names] = name = f"bank.weight.{len(known)}"
                every = np.stack([w[n] for w, n in zip(weights, names, strict=True)])
                if (every == every[:1]).all():
                    initialisers.append(numpy_helper.from_array(every[0], name))
                else:
                    initialisers.append(numpy_helper.from_array(every, f"{name}.of_all"))
                    inputs = [f"{name}.of_all", "bank.channel"]
                    gathers.append(helper.make_node("Gather", inputs, [name]))
            alike[0].input[position] = known[names]
    return initialisers, gathers
