"""Running networks whose weights do not fit into memory, one layer at a time.

Slow, and made for one purpose: an export of any size is compared with PyTorch like every other.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ParityError
from builder.export.external import external_bytes, outline
from builder.export.parity import Runner, torch_runner
from builder.stage import Arrays, Stage
from builder.stored import StoredWeights

if TYPE_CHECKING:
    import onnx
    import torch

PIECE_BYTES = 256 << 20
"""Stored weights per piece; as FP32, and transposed, they may take four times that."""


def streamed_torch_runner(stage: Stage, weights: StoredWeights) -> Runner:
    """Run a PyTorch module; each layer's weights are read when it is called, and then dropped.

    The module computes in FP32 whatever type its weights are stored in.

    Raises:
        CheckpointError: The files do not fit the module.
    """
    import torch

    module = weights.module()
    tensors, changes = weights.tensors(), weights.changes()
    # A tied weight is stored under one of its names.
    names = {id(p): name for name, p in module.named_parameters()}

    def attach(layer: "torch.nn.Module") -> None:
        held = {k: p for k, p in layer._parameters.items() if p is not None}
        if not held:
            return

        def load(layer: "torch.nn.Module", arguments: Any) -> None:
            for key, parameter in held.items():
                name = names[id(parameter)]
                values = tensors[name].read().float()
                if name in changes:
                    values = changes[name](values)
                layer._parameters[key] = torch.nn.Parameter(values, requires_grad=False)

        def drop(layer: "torch.nn.Module", arguments: Any, result: Any) -> None:
            layer._parameters.update(held)

        layer.register_forward_pre_hook(load)
        layer.register_forward_hook(drop)

    for layer in module.modules():
        attach(layer)
    return torch_runner(stage, module)


def streamed_onnx_runner(model: Path, piece_bytes: int = PIECE_BYTES) -> Runner:
    """Run an ONNX file in pieces, each a session of its own that only lives while it runs.

    ONNX Runtime maps external weights, but starts with every node that has no other input than
    weights: in one session all casts to FP32 would be in memory at the same time.

    Args:
        piece_bytes: Bytes of external weights per piece.

    Raises:
        ParityError: ONNX Runtime cannot load a piece.
    """
    whole = outline(model)
    pieces = list(_pieces(whole, piece_bytes))
    last_use = {name: i for i, piece in enumerate(pieces) for name in _names(piece.graph.input)}
    wanted = _names(whole.graph.output)

    def run(inputs: Arrays) -> Arrays:
        tensors = dict(inputs)
        for index, piece in enumerate(pieces):
            session = _session(piece, model)
            names = _names(piece.graph.output)
            feeds = {name: tensors[name] for name in _names(piece.graph.input)}
            tensors |= zip(names, session.run(names, feeds), strict=True)
            del session  # before the next one comes
            for name in [n for n in tensors if last_use.get(n, -1) <= index and n not in wanted]:
                del tensors[name]
        return {name: tensors[name] for name in wanted}

    return run


def _pieces(model: "onnx.ModelProto", piece_bytes: int) -> "Iterator[onnx.ModelProto]":
    """Cut a model between its nodes, which stay in their order."""
    import onnx
    from onnx import helper

    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = (*inferred.input, *inferred.output, *inferred.value_info)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    for begin, end in _cuts(nodes, initialisers, piece_bytes):
        part = nodes[begin:end]
        made = {name for node in part for name in node.output}
        read = {name for node in part for name in node.input if name}
        later = {name for node in nodes[end:] for name in node.input}
        later |= set(_names(model.graph.output))
        piece = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        piece.graph.name = f"nodes {begin} to {end}"
        piece.graph.node.extend(part)
        piece.graph.initializer.extend(
            initialisers[name] for name in sorted(read & set(initialisers))
        )
        for names, values in (
            (read - made - set(initialisers), piece.graph.input),
            (made & later, piece.graph.output),
        ):
            values.extend(
                helper.make_tensor_value_info(name, types[name], None) for name in sorted(names)
            )
        yield piece


def _cuts(
    nodes: "Sequence[onnx.NodeProto]",
    initialisers: "Mapping[str, onnx.TensorProto]",
    piece_bytes: int,
) -> Iterator[tuple[int, int]]:
    begin, size, seen = 0, 0, set[str]()
    for index, node in enumerate(nodes):
        new = [n for n in {*node.input} - seen if n in initialisers]
        seen.update(new)
        more = sum(external_bytes([initialisers[name]]) for name in new)
        if size and size + more > piece_bytes:
            yield begin, index
            begin, size = index, 0
        size += more
    yield begin, len(nodes)


def _session(piece: "onnx.ModelProto", model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(model.parent)
    )
    options.enable_cpu_mem_arena = False  # it would keep the largest of everything
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(
            piece.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ParityError(f"ONNX Runtime cannot load it: {error}", where=model) from error


def _names(values: Any) -> list[str]:
    return [value.name for value in values]
