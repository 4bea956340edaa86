"""Training the detectors.

One function per network, both seeded, deterministic on one machine, and resumable: the training
state is saved atomically after every epoch, each epoch draws its random numbers from a seed of
its own, and so a run that was killed goes on and ends with the same weights as one that was not.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from builder.digest import sha256_bytes, sha256_value
from builder.errors import CheckpointError, DataError
from builder.families.anomaly import checkpoint
from builder.families.anomaly.calibration import (
    ScoreSettings,
    describe,
    fit_normaliser,
    fit_scorer,
)
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.tranad import WINDOW, TranAD
from builder.families.anomaly.telemetry import Samples
from builder.families.anomaly.training_state import resume, save_state

NETWORK_RECIPE = 1
"""Counts changes of what training does: networks of another recipe are trained again."""

SCORE_RECIPE = 3
"""Counts changes of how scorers are fitted: older ones are fitted again."""

OMNI_WINDOW = 100
OMNI_BATCH = 32
OMNI_STRIDE = 8
"""An epoch draws one window of 100 samples per 8 samples of telemetry."""

OMNI_RATE = 3e-3
OMNI_CLIP = 1.0

TRANAD_BATCH = 128
TRANAD_RATE = 1e-3
TRANAD_DECAY = 1e-5

Report = Callable[[int, float], None]
"""Called after every epoch with its number, from 1, and its mean loss."""

Outcome = Literal["trained", "rescored", "unchanged"]
"""What was done to make a weights file."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a detector is trained.

    Attributes:
        epochs: Passes over the train array.
        seed: Decides the initial weights, the order of the data and the sampled noise.
        score: What the detector scores, and how its threshold is set.
    """

    epochs: int
    seed: int = 0
    score: ScoreSettings = ScoreSettings()


def network_digest(model: str, train: Samples, settings: TrainSettings) -> str:
    """Identifies the network that training makes of FP32 [T,25], whatever it then scores."""
    data = sha256_bytes(np.ascontiguousarray(train).tobytes())
    return sha256_value(
        [NETWORK_RECIPE, model, data, list(train.shape), settings.epochs, settings.seed]
    )


def recipe_digest(model: str, train: Samples, settings: TrainSettings) -> str:
    """Identifies all that training makes of FP32 [T,25]: equal digests mean equal files."""
    network = network_digest(model, train, settings)
    return sha256_value([SCORE_RECIPE, network, asdict(settings.score)])


def train_to_file(
    kind: type[OmniAnomaly] | type[TranAD],
    channel: str,
    train: Samples,
    settings: TrainSettings,
    target: Path,
    work: Path,
    report: Report | None = None,
) -> Outcome:
    """Train a detector on FP32 [T,25] and write its weights.

    A file that already holds the result is left alone; one that holds the same network with
    other scoring only has its scorer fitted again.

    Args:
        kind: The network.
        channel: The channel that the data is from, for the file's header.
        train: Telemetry of normal operation.
        settings: How to train.
        target: The safetensors file to write.
        work: Folder for the training state, which is removed at the end.
        report: Progress.

    Raises:
        DataError: Fewer samples than one training window.
        BuilderError: A file cannot be written.
    """
    model = kind.__name__
    network, recipe = network_digest(model, train, settings), recipe_digest(model, train, settings)
    known = _metadata(target)
    if known.get("recipe") == recipe:
        return "unchanged"
    state = work / f"{target.stem}.state"
    module: OmniAnomaly | TranAD
    outcome: Outcome = "trained"
    if known.get("network") == network:
        load = checkpoint.load_omnianomaly if kind is OmniAnomaly else checkpoint.load_tranad
        module, outcome = load(target), "rescored"
    elif kind is OmniAnomaly:
        module = train_omnianomaly(train, settings, state, report)
    else:
        module = train_tranad(train, settings, state, report)
    fit = fit_scorer(module, train, settings.score)
    facts = {
        "model": model,
        "channel": channel,
        "network": network,
        "recipe": recipe,
        "epochs": str(settings.epochs),
        "seed": str(settings.seed),
        "train_samples": str(len(train)),
        "torch": torch.__version__,
    }
    checkpoint.save(module, target, facts | describe(settings.score, fit))
    state.unlink(missing_ok=True)
    return outcome


def adopt_upstream(
    source: Path,
    channel: str,
    train: Samples,
    settings: TrainSettings,
    target: Path,
) -> None:
    """Make TranAD weights from an upstream checkpoint: only normaliser and scorer are fitted.

    Upstream scales each column by its train range plus 1e-4, which the normaliser's ranges of
    FP32 [T,25] equal closely enough.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        BuilderError: The target cannot be written.
    """
    module = checkpoint.load_tranad(source)
    fit_normaliser(module.normaliser, train)
    fit = fit_scorer(module, train, settings.score)
    facts = {
        "model": type(module).__name__,
        "channel": channel,
        "upstream": sha256_bytes(source.read_bytes()),
        "train_samples": str(len(train)),
        "torch": torch.__version__,
    }
    checkpoint.save(module, target, facts | describe(settings.score, fit))


def _metadata(path: Path) -> dict[str, str]:
    """The header of a weights file; empty if there is none or it is damaged."""
    if not path.is_file():
        return {}
    try:
        return checkpoint.read_metadata(path)
    except CheckpointError:
        return {}


def train_omnianomaly(
    train: Samples,
    settings: TrainSettings,
    state: Path | None = None,
    report: Report | None = None,
) -> OmniAnomaly:
    """Train on windows of FP32 [T,25]; the scorer is left to be fitted.

    Raises:
        DataError: Fewer than 100 samples.
    """
    _check_length(train, OMNI_WINDOW)
    with _reproducible(settings.seed):
        module = OmniAnomaly()
        fit_normaliser(module.normaliser, train)
        normal, _ = module.normaliser(torch.from_numpy(train))
        windows = normal.unfold(0, OMNI_WINDOW, 1)  # [N,25,100]
        optimiser = torch.optim.Adam(module.parameters(), lr=OMNI_RATE)
        steps = math.ceil(len(train) / (OMNI_STRIDE * OMNI_BATCH))

        def epoch_losses(epoch: int) -> Iterator[float]:
            for step in range(steps):
                done = (epoch * steps + step) / (settings.epochs * steps)
                _set_rate(optimiser, OMNI_RATE * 0.5 * (1 + math.cos(math.pi * done)))
                chosen = torch.randint(0, len(windows), (OMNI_BATCH,))
                loss = module.training_loss(windows[chosen].permute(2, 0, 1))
                yield _descend(loss, module, optimiser, OMNI_CLIP)

        digest = network_digest("OmniAnomaly", train, settings)
        _run(module, optimiser, settings, epoch_losses, state, digest, report)
    return module.eval()


def train_tranad(
    train: Samples,
    settings: TrainSettings,
    state: Path | None = None,
    report: Report | None = None,
) -> TranAD:
    """Train on all windows of FP32 [T,25]; the scorer is left to be fitted.

    Raises:
        DataError: Fewer than 10 samples.
    """
    _check_length(train, WINDOW)
    with _reproducible(settings.seed):
        module = TranAD()
        fit_normaliser(module.normaliser, train)
        normal, _ = module.normaliser(torch.from_numpy(train))
        windows = module.windows(normal)
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=TRANAD_RATE, weight_decay=TRANAD_DECAY
        )

        def epoch_losses(epoch: int) -> Iterator[float]:
            _set_rate(optimiser, TRANAD_RATE * 0.9 ** (epoch // 5))
            for chosen in torch.split(torch.randperm(len(train)), TRANAD_BATCH):
                loss = module.training_loss(windows[:, chosen], epoch)
                yield _descend(loss, module, optimiser, None)

        digest = network_digest("TranAD", train, settings)
        _run(module, optimiser, settings, epoch_losses, state, digest, report)
    return module.eval()


def _run(
    module: OmniAnomaly | TranAD,
    optimiser: torch.optim.Optimizer,
    settings: TrainSettings,
    epoch_losses: Callable[[int], Iterator[float]],
    state: Path | None,
    digest: str,
    report: Report | None,
) -> None:
    """Run the epochs that a saved state does not already cover."""
    first = resume(module, optimiser, state, digest)
    module.train()
    for epoch in range(first, settings.epochs):
        torch.manual_seed(settings.seed * 1_000_003 + epoch + 1)
        losses = list(epoch_losses(epoch))
        if state is not None:
            save_state(module, optimiser, state, digest, epoch + 1)
        if report is not None:
            report(epoch + 1, sum(losses) / len(losses))


def _descend(
    loss: Tensor,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    clip: float | None,
) -> float:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimiser.step()
    return float(loss.detach())


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread and a seeded generator inside the block, the caller's own ones after it."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)  # sums depend on how they are split among threads
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(threads)


def _check_length(train: Samples, window: int) -> None:
    if len(train) < window:
        raise DataError(
            f"{len(train)} train samples are fewer than one training window of {window}",
            hint="train on a longer stretch of normal operation",
        )
