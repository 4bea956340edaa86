"""Tracing a PyTorch module to ONNX."""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from builder.errors import BuilderError, ExportError
from builder.export.translations import exportable_gru, translation_table
from builder.stage import Stage

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 20
"""Newest opset whose operators TensorRT 10.8 and later all take."""


def trace(stage: Stage, module: "torch.nn.Module", *, optimize: bool) -> "onnx.ModelProto":
    """Trace a module at the stage's first shape, with every symbol dynamic.

    Args:
        optimize: Let the exporter fold constants. Without it every entry of the state_dict is
            still an initialiser of the same name, which is what weight swapping needs.

    Raises:
        ExportError: The exporter failed; the message holds its reason.
    """
    program = run_exporter(stage, module, optimize=optimize)
    return name_dims(stage, strip(program.model_proto))


def run_exporter(
    stage: Stage, module: "torch.nn.Module", *, optimize: bool
) -> "torch.onnx.ONNXProgram":
    """Run the exporter at the stage's first shape, with every symbol dynamic.

    Raises:
        ExportError: The exporter failed; the message holds its reason.
    """
    import numpy as np
    import torch

    example = stage.example(stage.shapes[0], np.random.default_rng(0))
    # Named Dims are quietly given up when an operator needs a constant; DYNAMIC is an error then.
    dynamic: tuple[object, ...] = tuple(
        {i: torch.export.Dim.DYNAMIC for i, d in enumerate(tensor.dims) if isinstance(d, str)}
        for tensor in stage.inputs
    )
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        dynamic = (dynamic,)  # forward(*inputs) is one argument to the tracer
    arguments = tuple(torch.from_numpy(example[tensor.name]) for tensor in stage.inputs)
    try:
        with _quiet(), exportable_gru(), torch.no_grad():
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                optimize=optimize,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                input_names=[tensor.name for tensor in stage.inputs],
                output_names=[tensor.name for tensor in stage.outputs],
                custom_translation_table=translation_table(),
                verbose=False,
            )
    except BuilderError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        # A first line that ends with a colon only announces the reason.
        reason = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]) or repr(cause)
        raise ExportError(
            f"the ONNX exporter failed: {reason}",
            where=f"stage {stage.name}",
            hint="run with BUILDER_DEBUG=1 for the exporter's traceback",
        ) from error
    assert program is not None
    return program


def name_dims(stage: Stage, model: "onnx.ModelProto", *, weights: int = 0) -> "onnx.ModelProto":
    """Call the dynamic dims of inputs and outputs as the stage does.

    Args:
        weights: So many inputs at the end are weights.
    """
    own = len(model.graph.input) - weights
    for values, tensors in (
        (list(model.graph.input)[:own], stage.inputs),
        (model.graph.output, stage.outputs),
    ):
        for value, tensor in zip(values, tensors, strict=True):
            dims = value.type.tensor_type.shape.dim
            if len(dims) != len(tensor.dims):
                continue  # the signature check names both sides
            for dim, declared in zip(dims, tensor.dims, strict=True):
                if isinstance(declared, str) and not dim.HasField("dim_value"):
                    dim.dim_param = declared
    return model


def strip(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Remove what only a debugger of the exporter needs: source lines, inferred shapes."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for function in model.functions:
        for node in function.node:
            node.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    # Shapes inferred while tracing may hold the traced sizes; the runtime infers its own.
    model.graph.ClearField("value_info")
    model.ClearField("metadata_props")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter off the terminal; failures still raise."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    onnxscript_logger = logging.getLogger("onnxscript")
    onnxscript_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
