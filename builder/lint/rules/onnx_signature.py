"""The config of an ONNX model must state what the file says.

A name or a type that differs keeps the model from loading. A dim that the config leaves open but
the file fixes lets requests through that fail later, in the middle of a batch.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from builder.errors import BuilderError
from builder.lint.model import ConfigFile, Context, Hit, Rule, Severity, backend_of, model_file

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

    from builder.repository.signature import ValueInfo

_REMEDY = "build the model again, or state what the file says"


def check(context: Context) -> Iterator[Hit]:
    """Yield files that cannot be read, and tensors that differ."""
    for model in context.models:
        for file, config in model.parsed:
            if backend_of(config) != "onnxruntime":
                continue
            for folder in model.version_folders():
                path = model_file(folder, config, "model.onnx")
                if path is None:
                    continue
                try:
                    inputs, outputs = context.onnx_infos(path)
                except BuilderError as error:
                    yield Hit(path, error.what, error.hint or _REMEDY)
                    continue
                yield from _compare(file, config, "input", config.input, inputs)
                yield from _compare(file, config, "output", config.output, outputs)
                yield from _unstated(file, config, inputs)


def _compare(
    file: ConfigFile,
    config: "ModelConfig",
    side: str,
    stated: "Sequence[ModelInput | ModelOutput]",
    infos: "Sequence[ValueInfo]",
) -> Iterator[Hit]:
    from builder.repository.model_config import dtype_of

    actual = {info.name: info for info in infos}
    for tensor in stated:
        info = actual.get(tensor.name)
        line = file.line(tensor.name)
        if info is None:
            known = ", ".join(sorted(actual))
            yield Hit(
                file.path,
                f"the model has no {side} {tensor.name!r} (it has {known})",
                _REMEDY,
                line,
            )
            continue
        dtype = dtype_of(tensor.data_type)
        if info.dtype is not None and dtype != info.dtype:
            yield Hit(
                file.path, f"{side} {tensor.name} is {info.dtype}, not {dtype}", _REMEDY, line
            )
        if info.dims is not None and (problem := _dims(config, tensor, info)):
            yield Hit(file.path, f"{side} {tensor.name}: {problem}", _REMEDY, line)


def _dims(
    config: "ModelConfig", tensor: "ModelInput | ModelOutput", info: "ValueInfo"
) -> str | None:
    stated = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    assert info.dims is not None
    actual = [-1 if isinstance(d, str) else d for d in info.dims]
    if config.max_batch_size > 0:
        if not actual or actual[0] != -1:
            return f"max_batch_size is {config.max_batch_size}, but the file has dims {actual}"
        stated.insert(0, -1)
    if not actual and stated == [1]:  # a scalar
        return None
    fits = len(stated) == len(actual) and all(
        a in (-1, s) for a, s in zip(actual, stated, strict=True)
    )
    return None if fits else f"the file has dims {actual}, the config states {stated}"


def _unstated(
    file: ConfigFile, config: "ModelConfig", inputs: "Sequence[ValueInfo]"
) -> Iterator[Hit]:
    """Inputs that nobody would feed; none if the config leaves them to auto-completion."""
    if not config.input:
        return
    fed = {tensor.name for tensor in config.input}
    fed |= {name for item in config.batch_input for name in item.target_name}
    fed |= {control.name for control in config.sequence_batching.control_input}
    fed |= {state.input_name for state in config.sequence_batching.state}
    for info in inputs:
        if info.name not in fed:
            yield Hit(
                file.path,
                f"the config leaves out input {info}",
                "state it, too",
                file.line("input"),
            )


RULE = Rule("TR010", "ONNX file differs from the config", Severity.ERROR, check)
