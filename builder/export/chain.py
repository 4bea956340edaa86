"""Running a pipeline's stages in this process, one after the other."""

from collections.abc import Mapping
from pathlib import Path

from builder.errors import PipelineError
from builder.export.parity import onnx_runner
from builder.pipeline import Pipeline
from builder.stage import Arrays


def run_chained(pipeline: Pipeline, models: Mapping[str, Path], inputs: Arrays) -> Arrays:
    """Run the ONNX files of a pipeline's stages as the ensemble scheduler would.

    Args:
        models: ONNX file by stage name.
        inputs: The pipeline's inputs by name.

    Returns:
        The pipeline's outputs by name.

    Raises:
        PipelineError: A step's inputs never become available.
    """
    runners = {name: onnx_runner(path) for name, path in models.items()}
    tensors = dict(inputs)
    waiting = list(pipeline.steps)
    while waiting:
        ready = [step for step in waiting if all(t in tensors for t in step.inputs.values())]
        if not ready:
            raise PipelineError(
                f"steps {', '.join(step.model for step in waiting)} wait for each other or for "
                "a tensor that nobody makes",
                where=f"pipeline {pipeline.name}",
            )
        for step in ready:
            results = runners[step.model]({k: tensors[v] for k, v in step.inputs.items()})
            tensors |= {v: results[k] for k, v in step.outputs.items()}
        waiting = [step for step in waiting if step not in ready]
    return {tensor.name: tensors[tensor.name] for tensor in pipeline.outputs}
