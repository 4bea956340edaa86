"""config.pbtxt of one model, through the protobuf messages of tritonclient.

Every input and output is written out: with both there, the onnxruntime backend completes
nothing, so a `max_batch_size` of 0 stays 0 although the first dim is dynamic.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import (
    DataType,
    ModelConfig,
    ModelInstanceGroup,
    ModelOutput,
    ModelTensorReshape,
    ModelVersionPolicy,
)

from builder.config import StageOptions
from builder.errors import ConfigError, RepositoryError, from_os_error
from builder.repository.names import check_name
from builder.repository.signature import Signature
from builder.stage import Dim, Tensor

HEADER = "# generated; edit builder.toml\n"

# Names under which each backend reads its thread settings.
_THREAD_PARAMETERS = {
    "onnxruntime": ("intra_op_thread_count", "inter_op_thread_count"),
    "pytorch": ("INTRA_OP_THREAD_COUNT", "INTER_OP_THREAD_COUNT"),
}

_TO_CONFIG: dict[str, int] = {
    name.removeprefix("TYPE_").replace("STRING", "BYTES"): number
    for name, number in DataType.items()
    if name != "TYPE_INVALID"
}
_FROM_CONFIG: dict[int, str] = {number: name for name, number in _TO_CONFIG.items()}

# `device` in builder.toml -> instance kind. KIND_GPU is what makes the onnxruntime backend use the
# CUDA provider; "auto" is not KIND_AUTO, which would pick a GPU that the other
# models may need.
_DEVICE_KINDS = {"auto": "KIND_CPU", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}

_POLICY = re.compile(r"all|latest:[1-9][0-9]*|specific:[1-9][0-9]*(,[1-9][0-9]*)*")


def config_dtype(dtype: str) -> int:
    """Triton data type (FP32, BYTES, ...) -> number in `DataType` (TYPE_FP32, TYPE_STRING, ...).

    Raises:
        RepositoryError: Triton has no such type.
    """
    try:
        return _TO_CONFIG[dtype]
    except KeyError:
        raise RepositoryError(
            f"unknown data type {dtype!r}", hint=f"known: {', '.join(_TO_CONFIG)}"
        ) from None


def dtype_of(number: int) -> str:
    """Number in `DataType` -> Triton data type; `INVALID` where a config does not say."""
    return _FROM_CONFIG.get(number, "INVALID")


def config_dims(dims: tuple[Dim, ...], max_batch_size: int) -> list[int]:
    """Dims as a config states them: without batch dim, -1 for a symbol, never empty.

    A tensor without any further dim becomes `[1]`, because Triton allows no empty dims.
    """
    kept = dims[1:] if max_batch_size > 0 else dims
    return [-1 if isinstance(d, str) else d for d in kept] or [1]


def stage_config(
    name: str,
    signature: Signature,
    *,
    backend: str,
    max_batch_size: int,
    options: StageOptions,
    metadata: Mapping[str, str],
    instance_kind: str | None = None,
    default_model_filename: str | None = None,
    cc_model_filenames: Mapping[str, str] | None = None,
    graph_level: int = 0,
    warmup_sizes: Mapping[str, int] | None = None,
    operator_libraries: Iterable[str] = (),
) -> ModelConfig:
    """The config of a stage.

    Args:
        name: Name of the model.
        signature: Its tensors, the batch dim included.
        backend: Name of the Triton backend.
        max_batch_size: 0 where the first dim is not a batch dim.
        options: Settings of the stage from builder.toml.
        metadata: Written into `parameters`.
        instance_kind: KIND_CPU, KIND_GPU, KIND_AUTO or KIND_MODEL; by default what the stage's
            `device` asks for.
        default_model_filename: File that is loaded; the backend's usual one if None.
        cc_model_filenames: Compute capability (`9.0`) -> file.
        graph_level: `optimization.graph.level` of the onnxruntime backend: 0 everything, -1
            basic, 1 extended, 2 nothing. The default finishes what was not done offline
            (offline optimisation leaves out what depends on the processor), and is what an
            ONNX Runtime session does by default, so what was proven is what is served.
        warmup_sizes: Symbol -> size for the warmup request; 1 where it is not named.
        operator_libraries: Files in the model's folder with custom operators.

    Raises:
        ConfigError: A setting of builder.toml is invalid or does not fit the model.
        RepositoryError: A name is unsafe, or the signature has no batch dim where it needs one.
    """
    check_name(name, "model name")
    config = ModelConfig(name=name, backend=backend, max_batch_size=max_batch_size)
    for tensor in signature.inputs:
        config.input.add(**_io(tensor, max_batch_size, name))
    for tensor in signature.outputs:
        config.output.append(ModelOutput(**_io(tensor, max_batch_size, name)))
    _set_files(config, default_model_filename, cc_model_filenames or {})
    _set_batching(config, options)
    if options.instances < 1:
        raise ConfigError("instances must be 1 or more", where=_where(name))
    kind = instance_kind or _instance_kind(options, name)
    config.instance_group.add(count=options.instances, kind=ModelInstanceGroup.Kind.Value(kind))
    if backend == "onnxruntime" and kind == "KIND_GPU":
        # By default the CUDA provider rounds the inputs of FP32 products to 10 bits.
        cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        cuda.parameters["use_tf32"] = "0"
    config.version_policy.CopyFrom(parse_policy(options.version_policy, where=_where(name)))
    if graph_level != 0:
        config.optimization.graph.level = graph_level
    for library in operator_libraries:
        config.model_operations.op_library_filename.append(check_name(library, "library"))
    if options.response_cache:
        config.response_cache.enable = True
    _set_parameters(config, options, metadata)
    if options.warmup:
        _add_warmup(config, signature, warmup_sizes or {})
    return config


def parse_policy(text: str, *, where: str | None = None) -> ModelVersionPolicy:
    """Read `latest:N`, `all` or `specific:1,3`.

    Raises:
        ConfigError: It is none of these.
    """
    compact = text.replace(" ", "")
    if _POLICY.fullmatch(compact) is None:
        raise ConfigError(
            f"unknown version policy {text!r}",
            where=where,
            hint="write latest:1, all, or specific:1,3",
        )
    policy = ModelVersionPolicy()
    kind, _, numbers = compact.partition(":")
    if kind == "all":
        policy.all.SetInParent()
    elif kind == "latest":
        policy.latest.num_versions = int(numbers)
    else:
        policy.specific.versions.extend(sorted({int(n) for n in numbers.split(",")}))
    return policy


def policy_text(config: ModelConfig) -> str:
    """The version policy of a config as builder.toml states it; `latest:1` where it has none."""
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return "all"
    if choice == "specific":
        return "specific:" + ",".join(map(str, policy.specific.versions))
    return f"latest:{policy.latest.num_versions or 1}"


def config_text(config: ModelConfig) -> str:
    """The text of config.pbtxt; equal configs give equal text."""
    return HEADER + text_format.MessageToString(config, as_utf8=True)


def parse_config(text: str, path: Path) -> ModelConfig:
    """Read the text of a config.

    Raises:
        RepositoryError: It is no config; the message says in which line.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line = error.GetLine()
        where = f"{path}:{line}" if line is not None else str(path)
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise RepositoryError(
            f"is no valid model configuration: {reason}",
            where=where,
            hint="compare it with model_config.proto of Triton, or build the model again",
        ) from error


def read_config(path: Path) -> ModelConfig:
    """Read a config.pbtxt.

    Raises:
        RepositoryError: It cannot be read, or is no config; the message says in which line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, "reading", path) from error
    except UnicodeDecodeError as error:
        raise RepositoryError("is not UTF-8 text", where=path) from error
    return parse_config(text, path)


def _where(name: str) -> str:
    return f'builder.toml [stages."{name}"]'


def _instance_kind(options: StageOptions, name: str) -> str:
    try:
        return _DEVICE_KINDS[options.device]
    except KeyError:
        raise ConfigError(
            f"device is {options.device!r}",
            where=_where(name),
            hint=f"use one of {', '.join(_DEVICE_KINDS)}",
        ) from None


def _io(tensor: Tensor, max_batch_size: int, model: str) -> dict[str, object]:
    if max_batch_size > 0 and (not tensor.dims or not isinstance(tensor.dims[0], str)):
        raise RepositoryError(
            f"max_batch_size is {max_batch_size}, but tensor {tensor} has no dynamic first dim",
            where=model,
            hint="set max_batch_size of the stage to 0, or export it with a batch dim",
        )
    message: dict[str, object] = {
        "name": tensor.name,
        "data_type": config_dtype(tensor.dtype),
        "dims": config_dims(tensor.dims, max_batch_size),
    }
    if max_batch_size > 0 and len(tensor.dims) == 1:
        message["reshape"] = ModelTensorReshape()  # [batch, 1] outside, [batch] inside
    return message


def _set_files(config: ModelConfig, default: str | None, by_capability: Mapping[str, str]) -> None:
    if default is not None:
        config.default_model_filename = check_name(default, "default_model_filename")
    for capability, file in sorted(by_capability.items()):
        if re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability) is None:
            raise RepositoryError(
                f"{capability!r} is no compute capability", where=config.name, hint="write 9.0"
            )
        config.cc_model_filenames[capability] = check_name(file, "cc_model_filenames value")


def _set_batching(config: ModelConfig, options: StageOptions) -> None:
    size = config.max_batch_size
    wanted = size > 0 if options.dynamic_batching is None else options.dynamic_batching
    if wanted and size == 0:
        raise ConfigError(
            "dynamic_batching is set, but the stage has no batch dim",
            where=_where(config.name),
            hint="remove that line",
        )
    if not wanted:
        return
    if bad := [n for n in options.preferred_batch_sizes if not 0 < n <= size]:
        raise ConfigError(
            f"preferred_batch_sizes holds {bad[0]}, max_batch_size is {size}",
            where=_where(config.name),
        )
    if options.max_queue_delay_us < 0:
        raise ConfigError("max_queue_delay_us is negative", where=_where(config.name))
    config.dynamic_batching.SetInParent()
    config.dynamic_batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us


def _set_parameters(
    config: ModelConfig, options: StageOptions, metadata: Mapping[str, str]
) -> None:
    values: dict[str, str] = {}
    counts = (options.intra_op_threads, options.inter_op_threads)
    for key, count in zip(_THREAD_PARAMETERS.get(config.backend, ()), counts, strict=False):
        if count < 0:
            raise ConfigError(f"{key} is negative", where=_where(config.name))
        values[key] = str(count)
    if clash := values.keys() & metadata.keys():
        raise ConfigError(
            f"metadata uses the name {sorted(clash)[0]!r}, which the backend reads",
            where=config.name,
            hint="rename it, or set it in builder.toml",
        )
    for key, value in sorted({**values, **metadata}.items()):
        config.parameters[key].string_value = value


def _add_warmup(config: ModelConfig, signature: Signature, sizes: Mapping[str, int]) -> None:
    """One request of zeros (of empty strings for BYTES) at the smallest valid size."""
    warmup = config.model_warmup.add(name="zeros", batch_size=1, count=1)
    for tensor in signature.inputs:
        dims = tensor.dims[1:] if config.max_batch_size > 0 else tensor.dims
        item = warmup.inputs[tensor.name]
        item.data_type = config_dtype(tensor.dtype)
        item.dims.extend([sizes.get(d, 1) if isinstance(d, str) else d for d in dims] or [1])
        item.zero_data = True
