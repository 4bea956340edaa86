"""An export of `nn.GRU` whose sequence length really is dynamic.

`torch.onnx.export(dynamo=True)` freezes the traced length of a plain `nn.GRU`: the fake tensor
that stands for its output has a constant T, which ends up in the shapes of the graph, silently.
While `exportable_gru` is active every `nn.GRU` runs as one custom operator with a fake kernel
that keeps T symbolic, and `translation_table` turns that operator into ONNX GRU nodes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from builder.errors import ExportError


@cache
def _gru_operator() -> Any:
    import torch

    @torch.library.custom_op("builder::gru", mutates_args=())
    def gru(input: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        layers = len(weights) // 4
        state = input.new_zeros(layers, input.shape[1], weights[1].shape[1])
        output: torch.Tensor = torch._VF.gru(
            input, state, weights, True, layers, 0.0, False, False, False
        )[0]
        return output

    @gru.register_fake
    def _(input: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        return input.new_empty(input.shape[0], input.shape[1], weights[1].shape[1])

    return torch.ops.builder.gru.default


@contextmanager
def exportable_gru() -> Iterator[None]:
    """Let every `nn.GRU` run as the custom operator inside the block.

    The module must be time-first, unidirectional, with biases, called without an initial state,
    and its final state is not available (None).

    Raises:
        ExportError: A GRU of another form is called inside the block.
    """
    import torch

    operator = _gru_operator()

    def forward(
        self: torch.nn.GRU, input: torch.Tensor, hx: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, None]:
        if self.bidirectional or self.batch_first or not self.bias or hx is not None:
            raise ExportError(
                "only a time-first, unidirectional nn.GRU with biases and without an initial "
                "state can be exported",
                hint="construct it as nn.GRU(inputs, hidden, num_layers) and call it as gru(x)",
            )
        # By name: `_flat_weights` would hand over tensors that the tracer does not know.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        return operator(input, weights), None

    original = torch.nn.GRU.forward
    torch.nn.GRU.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.GRU.forward = original  # type: ignore[method-assign]


def translation_table() -> dict[Any, Callable[..., Any]]:
    """The table for `torch.onnx.export(custom_translation_table=...)`, opset 20."""
    from onnxscript import opset20 as op

    def constant(value: int) -> Any:
        return op.Constant(value_ints=[value])

    def gates(weight: Any, hidden: int) -> Any:
        """Reorder PyTorch's gates (reset, update, new) to ONNX's (update, reset, new)."""
        parts = (
            op.Slice(weight, constant(gate * hidden), constant((gate + 1) * hidden), constant(0))
            for gate in (1, 0, 2)
        )
        return op.Concat(*parts, axis=0)

    def gru(input: Any, weights: Sequence[Any]) -> Any:
        output = input
        for layer in range(len(weights) // 4):
            w_ih, w_hh, b_ih, b_hh = weights[4 * layer : 4 * layer + 4]
            hidden = int(w_hh.shape[1])
            output, _ = op.GRU(
                output,
                op.Unsqueeze(gates(w_ih, hidden), constant(0)),
                op.Unsqueeze(gates(w_hh, hidden), constant(0)),
                op.Unsqueeze(
                    op.Concat(gates(b_ih, hidden), gates(b_hh, hidden), axis=0), constant(0)
                ),
                hidden_size=hidden,
                linear_before_reset=1,
            )
            output = op.Squeeze(output, constant(1))
        return output

    return {_gru_operator(): gru}
