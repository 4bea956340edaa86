"""One graph, many weight sets: exporting a model again by swapping its initialisers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from builder.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import torch


def swap_weights(
    graph: "onnx.ModelProto", state: "Mapping[str, torch.Tensor]", *, where: str
) -> "onnx.ModelProto":
    """A copy of a traced model with the values of another state_dict.

    Args:
        graph: A model that was traced without optimisation, so that its initialisers carry the
            names of the state_dict.
        state: Tensors by name, with the shapes and dtypes of the traced ones.
        where: The stage, for messages.

    Raises:
        ExportError: The graph and the state_dict do not have the same tensors.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    initialisers = {i.name: i for i in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    for name, tensor in state.items():
        target = initialisers.get(name)
        if target is None:
            raise ExportError(
                f"the traced graph has no initialiser {name}: its value is not used, or was "
                "folded into the graph",
                where=where,
                hint="remove the unused buffer, or export the stage without a shared graph",
            )
        value = numpy_helper.from_array(tensor.detach().cpu().contiguous().numpy(), name)
        if value.dims != target.dims or value.data_type != target.data_type:
            raise ExportError(
                f"{name} is {list(value.dims)}, the traced graph has {list(target.dims)}",
                where=where,
                hint="stages that share a graph must agree in every shape and dtype",
            )
        target.CopyFrom(value)
    # A float parameter that is read by the graph but absent from the state_dict would silently
    # keep the value of the stage that was traced.
    for name, tensor_proto in initialisers.items():
        if name in used and name not in state and "." in name and tensor_proto.data_type == 1:
            raise ExportError(f"the state_dict has no {name}", where=where)
    return model
