"""TranAD's second reconstruction in the form in which it is exported.

It is the same function of the same parameters. Two facts about the network make it cheap:

- Between its softmaxes it is linear, since its activation is the identity and it has no layer
  normalisation. So every run of dense layers is one product of matrices; those of parameters
  alone are constants of the graph. The attention of the decoders to their own single position is
  a dense layer, and the encoder's output is never needed itself, only what the decoders read.
- Neighbouring windows share all but one of their rows, and what a row contributes to a dense
  layer does not depend on the window that it is in. So that is computed once per row.

The 25 heads have two components each. Products of matrices as small as theirs are many thousand
calls; here each component is an array of its own, [10,T,25], and attention is arithmetic on whole
arrays. Arrays with two components side by side, [...,50], hold the first one of all heads before
the second one of all heads.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from builder.families.anomaly.channels import FEATURES

if TYPE_CHECKING:
    from builder.families.anomaly.networks.tranad import (
        Attention,
        DecoderLayer,
        EncoderLayer,
        FeedForward,
        TranAD,
    )

_QUERIES = 5
"""Positions that attend at once: the arrays of all ten do not fit into a core's cache."""


@dataclass(frozen=True, slots=True)
class _Dense:
    """x -> x @ weight.T + bias, weight FP32 [to,from]."""

    weight: Tensor
    bias: Tensor

    def after(self, other: "_Dense") -> "_Dense":
        """First the other, then this."""
        return _Dense(self.weight @ other.weight, self.weight @ other.bias + self.bias)

    def plus_identity(self) -> "_Dense":
        """This as a residual branch."""
        return _Dense(torch.eye(self.weight.shape[0]) + self.weight, self.bias)

    def of_twins(self) -> "_Dense":
        """This for an input whose two halves are equal and given once."""
        return _Dense(self.weight[:, :FEATURES] + self.weight[:, FEATURES:], self.bias)


def _dense(layer: nn.Linear) -> _Dense:
    return _Dense(layer.weight, layer.bias)


def _side_by_side(*layers: _Dense) -> _Dense:
    return _Dense(torch.cat([d.weight for d in layers]), torch.cat([d.bias for d in layers]))


@dataclass(frozen=True, slots=True)
class _Projections:
    """The dense layers of one attention, components of heads side by side.

    Attributes:
        query: Divided by the root of the head's size.
        key_value: Keys, then values.
        output: From what was attended to.
    """

    query: _Dense
    key_value: _Dense
    output: _Dense

    @staticmethod
    def of(attention: "Attention") -> "_Projections":
        """Read them from a module."""
        query, key, value = (
            _Dense(torch.cat((weight[0::2], weight[1::2])), torch.cat((bias[0::2], bias[1::2])))
            for weight, bias in zip(
                attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
            )
        )
        out = attention.out_proj
        return _Projections(
            query=_Dense(query.weight / math.sqrt(2), query.bias / math.sqrt(2)),
            key_value=_side_by_side(key, value),
            output=_Dense(torch.cat((out.weight[:, 0::2], out.weight[:, 1::2]), dim=1), out.bias),
        )


def _feed_forward(layer: "FeedForward") -> _Dense:
    return _dense(layer.linear2).after(_dense(layer.linear1)).plus_identity()


@dataclass(frozen=True, slots=True)
class _Phase:
    """One pass through encoder and decoder.

    Attributes:
        of_source: From the encoder's input to what decides the decoder's keys and values.
        of_attended: The same from what the encoder attended to.
        query: From the last sample to the decoder's query.
        passed: From the last sample past the attention to the output.
        output: From what the decoder attended to, to the output.
    """

    of_source: _Dense
    of_attended: Tensor
    query: _Dense
    passed: _Dense
    output: Tensor

    @staticmethod
    def of(model: "TranAD", encoder: "EncoderLayer", decoder: "DecoderLayer") -> "_Phase":
        """Multiply the dense layers out."""
        own, cross = _Projections.of(decoder.self_attn), _Projections.of(decoder.multihead_attn)
        encoder_output = _Projections.of(encoder.self_attn).output
        # The encoder's output is feed_forward(source + encoder_output(attended)).
        read = cross.key_value.after(_feed_forward(encoder))
        # A softmax over one position is 1: the decoder's first attention is a dense layer.
        value = _Dense(own.key_value.weight[2 * FEATURES :], own.key_value.bias[2 * FEATURES :])
        target = own.output.after(value).plus_identity()
        fcn = _dense(cast(nn.Linear, model.fcn[0]))
        rest = fcn.after(_feed_forward(decoder))
        passed = rest.after(target)
        return _Phase(
            of_source=_Dense(read.weight, read.weight @ encoder_output.bias + read.bias),
            of_attended=read.weight @ encoder_output.weight,
            query=cross.query.after(target).of_twins(),
            passed=_Dense(passed.weight, rest.weight @ cross.output.bias + passed.bias).of_twins(),
            output=rest.weight @ cross.output.weight,
        )


def folded_reconstruction(model: "TranAD", normal: Tensor) -> Tensor:
    """`TranAD.reconstruct`: second reconstruction FP32 [T,25] of normalised FP32 [T,25]."""
    samples, positions = normal.shape[0], model.pos_encoder.pe.shape[0]
    padded = torch.cat((normal[:1].repeat(positions - 1, 1), normal))

    def windows(rows: Tensor) -> Tensor:
        """FP32 [10,T,F], the window that ends at each sample, from rows FP32 [T+9,F]."""
        return torch.stack([rows[p : p + samples] for p in range(positions)])

    encoder = cast("EncoderLayer", model.transformer_encoder.layers[0])
    own = _Projections.of(encoder.self_attn)
    first, second = (
        _Phase.of(model, encoder, cast("DecoderLayer", decoder.layers[0]))
        for decoder in (model.transformer_decoder1, model.transformer_decoder2)
    )
    encode = _side_by_side(own.query, own.key_value)  # [150,50]
    size = encode.weight.shape[0]

    # What windows and positions contribute to everything that reads the encoder's input, of which
    # the focus score is added later. The input is (window, focus) * root of FEATURES + position.
    source = _side_by_side(encode, first.of_source, second.of_source)
    scaled = source.weight * math.sqrt(FEATURES)
    positional = linear(model.pos_encoder.pe.squeeze(1), source.weight, source.bias)  # [10,350]
    known = windows(linear(padded, scaled[:, :FEATURES])) + positional.unsqueeze(1)
    encode_known = known[..., :size]
    first_known = known[..., size : size + 4 * FEATURES]
    second_known = known[..., size + 4 * FEATURES :]
    of_target = _side_by_side(first.query, first.passed, second.query, second.passed)
    target = linear(normal, of_target.weight, of_target.bias)
    query_1, query_2 = target[:, : 2 * FEATURES], target[:, 3 * FEATURES : 5 * FEATURES]
    passed_1, passed_2 = target[:, 2 * FEATURES : 3 * FEATURES], target[:, 5 * FEATURES :]

    attended = _attend_to_self(encode_known)
    memory = first_known + linear(attended, first.of_attended)
    attended = _attend(_parts(query_1), _parts(memory), dim=0)
    restored = (passed_1 + linear(attended, first.output)).sigmoid()

    focus = (restored - windows(padded)).square()
    # The focus score adds nothing to what the first decoder reads, which is why it is left out.
    by_focus = torch.cat((scaled[:size], scaled[-4 * FEATURES :]))[:, FEATURES:]
    added = linear(focus, by_focus)
    attended = _attend_to_self(encode_known + added[..., :size])
    memory = second_known + added[..., size:] + linear(attended, second.of_attended)
    attended = _attend(_parts(query_2), _parts(memory), dim=0)
    reconstruction: Tensor = (passed_2 + linear(attended, second.output)).sigmoid()
    return reconstruction


def _parts(x: Tensor) -> list[Tensor]:
    """FP32 [...,25] each of FP32 [...,25 n]."""
    # Slices, not split: that would be exported as a sequence, which TensorRT lacks.
    return [x[..., i : i + FEATURES] for i in range(0, x.shape[-1], FEATURES)]


def _attend_to_self(projected: Tensor) -> Tensor:
    """FP32 [10,T,50], every position to all ten, from queries, keys and values [10,T,150]."""
    first, second, *memory = _parts(projected)
    positions = projected.shape[0]
    return torch.cat(
        [
            _attend([q[p : p + _QUERIES].unsqueeze(1) for q in (first, second)], memory, dim=1)
            for p in range(0, positions, _QUERIES)
        ]
    )


def _attend(query: list[Tensor], memory: list[Tensor], dim: int) -> Tensor:
    """What 25 heads of two components attend to.

    Args:
        query: Two components FP32 [...,T,25], with a 1 at `dim` if they have that many dims.
        memory: Two components of the keys and two of the values, FP32 [10,T,25] each.
        dim: Where the ten positions are.
    """
    key_1, key_2, value_1, value_2 = memory
    logits = query[0] * key_1 + query[1] * key_2
    weights = (logits - logits.amax(dim=dim, keepdim=True)).exp()
    total = weights.sum(dim)
    sums = ((weights * value).sum(dim) for value in (value_1, value_2))
    return torch.cat([part / total for part in sums], dim=-1)
