"""What TensorRT's messages mean, and what to do about them."""

from builder.errors import EngineError

_CAUSES = (
    (
        ("out of memory", "outofmemory", "out_of_memory", "cudaerrormemoryallocation"),
        "the GPU ran out of memory",
        "close what else uses the GPU (`nvidia-smi` lists it), lower workspace_mib or the max of "
        'the profile in builder.toml [tensorrt."{name}"], or build on a larger GPU of the same '
        "compute capability",
    ),
    (
        ("insufficient workspace", "some tactics do not have sufficient workspace"),
        "no kernel fits into the workspace limit",
        'raise workspace_mib in builder.toml [tensorrt."{name}"], or set it to 0',
    ),
    (
        ("could not parse onnx", "failed to parse onnx", "unsupportednode", "unsupported_node"),
        "TensorRT cannot parse the graph",
        "`builder lint --tensorrt MODEL.onnx` names what it does not take; leave `tensorrt` out of "
        "the stage's engines to serve it with ONNX Runtime alone",
    ),
    (
        ("no supported formats", "could not find any implementation"),
        "TensorRT has no kernel for a part of the graph on this GPU",
        "try another precision, or a newer TensorRT",
    ),
    (
        ("cuda driver version is insufficient", "cuda initialization failure", "no cuda-capable"),
        "CUDA does not start",
        "the driver must be as new as the CUDA of TensorRT: `nvidia-smi` shows which it supports",
    ),
    (
        ("serialization", "deserialize", "magic tag", "version tag"),
        "the plan cannot be read by this TensorRT",
        "build it again with the TensorRT and on the kind of GPU that run it",
    ),
)


def explain(message: str, log: list[str], *, name: str) -> EngineError:
    """The error for what TensorRT said.

    Args:
        message: The exception's text.
        log: Error messages of TensorRT's logger, oldest first: they hold the cause.
        name: The model.
    """
    text = "\n".join([*log, message]).lower()
    said = next((line.strip() for line in reversed(log) if line.strip()), message.strip())
    said = (said.splitlines() or ["it gave no reason"])[0][:300]
    for words, what, hint in _CAUSES:
        if any(word in text for word in words):
            return EngineError(f"{what}: {said}", where=name, hint=hint.format(name=name))
    return EngineError(
        f"TensorRT failed: {said}",
        where=name,
        hint="BUILDER_DEBUG=1 prints everything that TensorRT says",
    )
