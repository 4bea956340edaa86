"""config.pbtxt of a model of TensorRT plans: GPU instances, profiles, CUDA graphs, the plans."""

from collections.abc import Mapping, Sequence

from tritonclient.grpc.model_config_pb2 import ModelConfig

from builder.config import StageOptions
from builder.engines.trt.options import TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile
from builder.repository.model_config import stage_config
from builder.repository.signature import Signature


def plan_config(
    name: str,
    signature: Signature,
    plans: Mapping[str, str],
    profiles: Sequence[ShapeProfile],
    *,
    max_batch_size: int,
    options: StageOptions,
    tensorrt: TensorRTOptions,
    metadata: Mapping[str, str],
) -> ModelConfig:
    """The config of a stage's TensorRT twin.

    There is no `default_model_filename`: on a GPU without a plan of its own the model must fail
    to load instead of running something else.

    Args:
        name: Name of the model.
        signature: Tensors of the export, the batch dim included.
        plans: Compute capability -> file; see `builder.repository.plans.plan_table`.
        profiles: The optimisation profiles that every plan is built with.

    Raises:
        ConfigError: A setting does not fit the model.
        RepositoryError: A name is unsafe or a compute capability is none.
    """
    config = stage_config(
        name,
        signature,
        backend="tensorrt",
        max_batch_size=max_batch_size,
        options=options,
        metadata=metadata,
        instance_kind="KIND_GPU",
        cc_model_filenames=plans,
        # Captured and warmed up at the size that the plan is tuned for.
        warmup_sizes=profiles[0].point("opt") if profiles else None,
    )
    group = config.instance_group[0]
    group.gpus.extend(tensorrt.gpus)
    if len(profiles) > 1:  # without a list the backend uses the first one only
        group.profile.extend(str(index) for index in range(len(profiles)))
    if tensorrt.cuda_graphs:
        _add_graphs(config, profiles)
    return config


def _add_graphs(config: ModelConfig, profiles: Sequence[ShapeProfile]) -> None:
    """One CUDA graph per profile, at its usual size: a graph holds for exactly one size."""
    config.optimization.cuda.graphs = True
    seen: list[dict[str, tuple[int, ...]]] = []
    for profile in profiles:
        shapes = {name: usual for name, (_, usual, _) in profile.inputs.items()}
        if shapes in seen:
            continue
        seen.append(shapes)
        batched = config.max_batch_size > 0
        first = next(iter(shapes.values()), (0,))
        spec = config.optimization.cuda.graph_spec.add(batch_size=first[0] if batched else 0)
        for name, shape in shapes.items():
            spec.input[name].dim.extend(shape[1:] if batched else shape)
