"""Pipelines as native ensembles: checked, then written."""

from collections.abc import Mapping
from types import MappingProxyType

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelOutput

from builder.errors import PipelineError, RepositoryError
from builder.pipeline import Pipeline
from builder.repository.model_config import config_dtype
from builder.repository.names import check_name
from builder.repository.signature import Signature
from builder.repository.wiring import Graph, Member, Node, check
from builder.stage import Tensor

_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def check_pipeline(
    pipeline: Pipeline, signatures: Mapping[str, Signature], batch: Mapping[str, int]
) -> None:
    """Check names, data types, dims and batching along the whole pipeline.

    Args:
        pipeline: The pipeline.
        signatures: Model -> its tensors, the batch dim included where it has one.
        batch: Model -> max_batch_size; 0 where a model is not named.

    Raises:
        PipelineError: Something does not fit; the message holds every finding.
    """
    graph = Graph(
        name=pipeline.name,
        inputs=pipeline.inputs,
        outputs=pipeline.outputs,
        steps=[Node(s.model, s.inputs, s.outputs) for s in pipeline.steps],
        max_batch_size=pipeline.max_batch_size,
    )
    members = {
        name: Member(s.inputs, s.outputs, batch.get(name, 0)) for name, s in signatures.items()
    }
    problems = list(check(graph, members))
    if not problems:
        return
    lines = [f"step {p.step}: {p.text}" if p.step else p.text for p in problems]
    hints = dict.fromkeys(p.hint for p in problems if p.hint)
    raise PipelineError(
        "; ".join(lines), where=f"pipeline {pipeline.name}", hint="; ".join(hints) or None
    )


def ensemble_config(
    pipeline: Pipeline,
    *,
    names: Mapping[str, str] = _NO_NAMES,
    model_version: int = -1,
) -> ModelConfig:
    """The config of a pipeline; call `check_pipeline` first.

    Args:
        pipeline: The pipeline.
        names: Model -> the twin that takes its place, for example its `_trt` one.
        model_version: Version of every step's model; -1 is the newest that is served.

    Raises:
        RepositoryError: The name of the pipeline or of a tensor is unsafe or empty.
    """
    check_name(pipeline.name, "pipeline name")
    config = ModelConfig(
        name=pipeline.name, platform="ensemble", max_batch_size=pipeline.max_batch_size
    )
    for tensor in pipeline.inputs:
        config.input.add(**_io(tensor))
    for tensor in pipeline.outputs:
        config.output.append(ModelOutput(**_io(tensor)))
    for step in pipeline.steps:
        message = config.ensemble_scheduling.step.add(
            model_name=check_name(names.get(step.model, step.model), "model name"),
            model_version=model_version,
        )
        message.input_map.update(step.inputs)
        message.output_map.update(step.outputs)
    for key, value in sorted(pipeline.metadata.items()):
        config.parameters[key].string_value = value
    return config


def _io(tensor: Tensor) -> dict[str, object]:
    if not tensor.dims:
        raise RepositoryError(
            f"tensor {tensor} of a pipeline has no dims", hint="Triton states a scalar as [1]"
        )
    return {
        "name": tensor.name,
        "data_type": config_dtype(tensor.dtype),
        "dims": [-1 if isinstance(d, str) else d for d in tensor.dims],
    }
