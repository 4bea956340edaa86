"""The configuration of a stage with other settings, as `builder build` would publish it."""

from typing import TYPE_CHECKING

from builder.config import Config, StageOptions
from builder.engines.engine import engine_kind
from builder.export.exporter import MODEL
from builder.repository.model_config import read_config, stage_config
from builder.repository.publish import CONFIG, versions
from builder.repository.signature import onnx_signature
from builder.stage import Stage

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def candidate_config(config: Config, stage: Stage, options: StageOptions) -> "ModelConfig":
    """What config.pbtxt would say with these settings.

    The files, and which version is served, stay as they are published.

    Raises:
        ConfigError: A setting does not fit the stage.
        RepositoryError: The published model is damaged.
    """
    kind = engine_kind("onnxruntime")
    model = kind.model_name(stage)
    folder = config.repository / kind.group / model
    published = read_config(folder / CONFIG)
    version = max(versions(folder), default=1)
    made = stage_config(
        model,
        onnx_signature(folder / str(version) / MODEL),
        backend=kind.backend,
        max_batch_size=stage.max_batch_size,
        options=options,
        metadata={"family": stage.family, **stage.metadata},
        warmup_sizes=stage.shapes[0] if stage.shapes else None,
        operator_libraries=published.model_operations.op_library_filename,
    )
    made.version_policy.CopyFrom(published.version_policy)  # a rollback may have pinned one
    return made


def config_json(config: "ModelConfig") -> str:
    """A configuration as the load request of the model repository extension wants it."""
    from google.protobuf.json_format import MessageToJson

    return str(MessageToJson(config, preserving_proto_field_name=True, indent=None))
