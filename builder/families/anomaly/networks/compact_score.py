"""The score of `networks.scoring.Scorer` in the form in which it is exported.

It is the same function of the same buffers, made of a third of the operations: a graph of this
size spends its time on the number of its nodes, not on their arithmetic. Only the columns that
count are looked at, time is the last axis, all rolling means are one convolution and each rolling
maximum is one pooling. Before the first sample stands nothing at all, since windows that are not
full of finite samples do not count.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from builder.families.anomaly.networks.scoring import Scorer

MOST_COLUMNS = 8
"""Above this many scored columns the plain form is no slower: pooling costs window * columns."""

_AFTER_VALUE = (1, 3, 4, 2)
"""Rows of `Scorer.centre` for one window, in the order mean, activity, residual, range."""


def compact_score(
    scorer: "Scorer", normal: Tensor, reconstruction: Tensor, finite: Tensor, columns: int
) -> Tensor:
    """`Scorer.forward` for at most `columns` columns with a weight; FP32 [T].

    Args:
        scorer: Whose buffers to use.
        normal: FP32 [T,features].
        reconstruction: FP32 [T,features].
        finite: BOOL [T].
        columns: How many columns are looked at: those of the largest weights.
    """
    # Here because scoring imports this module.
    from builder.families.anomaly.networks.scoring import SCORE_MAX, WINDOWS

    chosen = scorer.weights.topk(columns).indices
    centre = scorer.centre.index_select(1, chosen)  # [9,k]
    scale = (scorer.weights / scorer.half_width).index_select(1, chosen)
    value = normal.index_select(1, chosen).t()  # [k,T]
    residual = (value - reconstruction.index_select(1, chosen).t()).abs()
    activity = (value - torch.cat((value[:, :1], value[:, :-1]), dim=1)).abs()
    present = finite.to(normal.dtype).unsqueeze(0)

    means = _means(torch.cat((value, activity, residual, present)), WINDOWS)
    ranges = _ranges(value, WINDOWS)
    statistics = torch.cat((means[: 3 * columns], ranges))  # [4k,windows,T]
    complete = means[3 * columns :].floor()  # 1 only where all samples of the window are finite
    distance = (statistics - _by_window(centre, len(WINDOWS))).abs()
    distance = distance * _by_window(scale, len(WINDOWS)) * complete
    now = (value - centre[0].unsqueeze(-1)).abs() * scale[0].unsqueeze(-1)
    score = torch.cat((now, distance.flatten(0, 1))).amax(dim=0).clamp(max=SCORE_MAX)
    return torch.where(finite, score, SCORE_MAX)


def _means(rows: Tensor, windows: tuple[int, ...]) -> Tensor:
    """Means of FP32 [R,T] over the windows that end at each sample: FP32 [R,windows,T].

    What is before the first sample counts as 0. Means of ones are exact: windows are powers of 2.
    """
    longest = windows[-1]
    kernel = [
        part
        for window in windows
        for part in (torch.zeros(longest - window), torch.full((window,), 1.0 / window))
    ]
    padded = functional.pad(rows.unsqueeze(1), (longest - 1, 0))
    # One dimension, not two: ONNX Runtime would lay two out in blocks of 16 channels.
    return functional.conv1d(padded, torch.cat(kernel).reshape(len(windows), 1, longest))


def _ranges(value: Tensor, windows: tuple[int, ...]) -> Tensor:
    """Largest minus smallest of FP32 [k,T] in each window: FP32 [k,windows,T]."""
    columns = value.shape[0]
    # Two dimensions, which is what TensorRT's pooling takes.
    peaks = torch.cat((value, -value)).unsqueeze(0).unsqueeze(2)  # [1,2k,1,T]
    largest = torch.cat(
        [
            functional.max_pool2d(
                functional.pad(peaks, (window - 1, 0), value=-torch.inf), (1, window), stride=1
            )
            for window in windows
        ],
        dim=2,
    ).squeeze(0)  # [2k,windows,T]
    return largest[:columns] + largest[columns:]


def _by_window(buffer: Tensor, windows: int) -> Tensor:
    """FP32 [4k,windows,1], in the order of the statistics, from a buffer FP32 [9,k]."""
    parts = [torch.cat([buffer[4 * i + row] for row in _AFTER_VALUE]) for i in range(windows)]
    return torch.stack(parts, dim=1).unsqueeze(-1)
