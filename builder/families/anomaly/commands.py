"""`builder train anomaly` and `builder evaluate anomaly`."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.errors import UsageError
from builder.families.anomaly.channels import CHANNEL_NAMES, Channel, find_channel
from builder.families.anomaly.options import SHIPPED_WEIGHTS

if TYPE_CHECKING:
    from rich.table import Table

    from builder.families.anomaly.evaluate import Evaluation
    from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
    from builder.families.anomaly.networks.tranad import TranAD
    from builder.families.anomaly.train import TrainSettings

TRANAD_MODEL = "tranad_sat1"
TRANAD_CHANNEL = "E-1"
"""tranad_sat1 is the second opinion on E-1 in `anomaly_pipeline`, so it learns from E-1."""

OMNIANOMALY_EPOCHS = 50
TRANAD_EPOCHS = 30

_FOLDER = click.Path(file_okay=False, path_type=Path)
_EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("anomaly")
@click.option("--data", type=_EXISTING_FOLDER, help="Telemetry folder of the telemanom layout.")
@click.option("--synthetic", is_flag=True, help="Train on synthetic telemetry instead.")
@click.option("--channel", "names", multiple=True, help="Channel, e.g. E-1; repeatable. All.")
@click.option(
    "--model",
    type=click.Choice(["omnianomaly", "tranad", "all"]),
    default="all",
    show_default=True,
    help="Network; tranad trains tranad_sat1 on one channel, by default E-1.",
)
@click.option(
    "--out", type=_FOLDER, default=Path("weights"), show_default=True, help="Where weights go."
)
@click.option("--work", type=_FOLDER, help="Where training states go.  [default: OUT/.training]")
@click.option("--epochs", type=click.IntRange(1, 10_000), help="Passes over the train array.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--column",
    "columns",
    type=click.IntRange(0, 24),
    multiple=True,
    default=(0,),
    show_default=True,
    help="Column that is scored; repeatable. 0 is the telemetry value.",
)
@click.option("--risk", type=float, default=1e-2, show_default=True, help="POT risk q.")
@click.option("--level", type=float, default=0.98, show_default=True, help="POT quantile.")
@click.option(
    "--upstream",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take TranAD's network from the authors' model.ckpt and only fit its scorer.",
)
def train_command(
    data: Path | None,
    synthetic: bool,
    names: tuple[str, ...],
    model: str,
    out: Path,
    work: Path | None,
    epochs: int | None,
    seed: int,
    columns: tuple[int, ...],
    risk: float,
    level: float,
    upstream: Path | None,
) -> None:
    """Train the detectors of the anomaly family.

    Killed, it goes on where it stopped; detectors that are already trained are left alone.
    """
    from builder.families.anomaly.calibration import ScoreSettings
    from builder.families.anomaly.thresholds import PotSettings
    from builder.families.anomaly.train import TrainSettings

    if upstream is not None and model != "tranad":
        raise UsageError("--upstream is for TranAD", hint="add --model tranad")
    try:
        pot = PotSettings(risk, level)
    except ValueError as error:
        raise UsageError(str(error), where="--risk, --level") from error
    score = ScoreSettings(columns=tuple(sorted(set(columns))), pot=pot)
    chosen = tuple(find_channel(name).name for name in names)
    if model == "tranad" and len(chosen) > 1:
        raise UsageError(
            "tranad_sat1 is trained on one channel", where="--channel", hint="name only one"
        )
    jobs: list[tuple[str, str, TrainSettings]] = []
    if model != "omnianomaly":
        channel = chosen[0] if model == "tranad" and chosen else TRANAD_CHANNEL
        settings = TrainSettings(epochs or TRANAD_EPOCHS, seed, score)
        jobs.append((TRANAD_MODEL, channel, settings))
    with _telemetry(data, synthetic, chosen or CHANNEL_NAMES, TRANAD_CHANNEL) as folder:
        if model != "tranad":
            settings = TrainSettings(epochs or OMNIANOMALY_EPOCHS, seed, score)
            jobs += [
                (find_channel(name).model, name, settings)
                for name in (chosen or _channels_in(folder))
            ]
        _train_all(folder, jobs, out, work or out / ".training", upstream)


@click.command("anomaly")
@click.option("--data", type=_EXISTING_FOLDER, help="Telemetry folder of the telemanom layout.")
@click.option("--synthetic", is_flag=True, help="Evaluate on synthetic telemetry instead.")
@click.option("--channel", "names", multiple=True, help="Channel, e.g. E-1; repeatable. All.")
@click.option(
    "--model",
    type=click.Choice(["omnianomaly", "tranad"]),
    default="omnianomaly",
    show_default=True,
    help="Network; tranad is tranad_sat1 on one channel, by default E-1.",
)
@click.option("--weights", type=_EXISTING_FOLDER, help="Weights folder.  [default: the shipped]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--plots", type=_FOLDER, help="Write a PNG per channel into this folder.")
def evaluate_command(
    data: Path | None,
    synthetic: bool,
    names: tuple[str, ...],
    model: str,
    weights: Path | None,
    as_json: bool,
    plots: Path | None,
) -> None:
    """Compare detections with labels, beside a range rule and random alarms."""
    chosen = tuple(find_channel(name).name for name in names)
    if model == "tranad":
        chosen = chosen or (TRANAD_CHANNEL,)
        if len(chosen) > 1:
            raise UsageError(
                "tranad_sat1 is evaluated on one channel", where="--channel", hint="name only one"
            )
    with _telemetry(data, synthetic, chosen or CHANNEL_NAMES) as folder:
        channels = [find_channel(name) for name in chosen or _channels_in(folder)]
        report = _evaluate_all(folder, channels, model, weights or SHIPPED_WEIGHTS, plots)
    if as_json:
        click.echo(report.to_json())
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(_channel_table(report))
    console.print(_pooled_table(report))


@contextmanager
def _telemetry(
    data: Path | None, synthetic: bool, channels: Sequence[str], *more: str
) -> Iterator[Path]:
    """The folder to read: the given one, or synthetic telemetry for the time of the block."""
    if synthetic == (data is not None):
        raise UsageError(
            "say which telemetry to use: --data DIR, or --synthetic, and not both",
        )
    if data is not None:
        yield data
        return
    from builder.families.anomaly.synthetic import write_folder

    with tempfile.TemporaryDirectory(prefix="builder-telemetry-") as name:
        write_folder(Path(name), tuple(dict.fromkeys((*channels, *more))))
        yield Path(name)


def _channels_in(folder: Path) -> tuple[str, ...]:
    from builder.families.anomaly.telemetry import channels_with_data

    return channels_with_data(folder, CHANNEL_NAMES)


def _train_all(
    folder: Path,
    jobs: "Sequence[tuple[str, str, TrainSettings]]",
    out: Path,
    work: Path,
    upstream: Path | None,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from builder.families.anomaly.checkpoint import weights_path
    from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
    from builder.families.anomaly.networks.tranad import TranAD
    from builder.families.anomaly.telemetry import load_train
    from builder.families.anomaly.train import adopt_upstream, train_to_file

    console = Console(stderr=True)
    outcomes: dict[str, int] = {}
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("", total=sum(settings.epochs for _, _, settings in jobs))
        before = 0
        for name, channel, settings in jobs:
            train = load_train(folder, channel)
            target = weights_path(out, name)

            def report(epoch: int, loss: float, name: str = name, before: int = before) -> None:
                text = f"{name}: epoch {epoch}, loss {loss:.4f}"
                progress.update(bar, description=text, completed=before + epoch)

            if upstream is not None:
                adopt_upstream(upstream, channel, train, settings, target)
                outcome: str = "adopted"
            else:
                kind = TranAD if name == TRANAD_MODEL else OmniAnomaly
                outcome = train_to_file(kind, channel, train, settings, target, work, report)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            before += settings.epochs
            progress.update(bar, completed=before)
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
    summary = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    click.echo(f"{out}: {summary}")


def _evaluate_all(
    folder: Path,
    channels: Sequence[Channel],
    model: str,
    weights: Path,
    plots: Path | None,
) -> "Evaluation":
    from rich.console import Console
    from rich.progress import Progress

    from builder.families.anomaly.checkpoint import load_omnianomaly, load_tranad, weights_path
    from builder.families.anomaly.evaluate import ChannelReport, Scores, evaluate
    from builder.families.anomaly.plots import plot_channel
    from builder.families.anomaly.telemetry import Samples

    def load(channel: Channel) -> "OmniAnomaly | TranAD":
        if model == "tranad":
            return load_tranad(weights_path(weights, TRANAD_MODEL))
        return load_omnianomaly(weights_path(weights, channel.model))

    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("evaluating", total=len(channels))

        def seen(report: ChannelReport, test: Samples, answer: Scores) -> None:
            if plots is not None:
                title = f"{report.channel} ({report.subsystem}), {model}"
                path = plots / f"{report.channel}.png"
                plot_channel(path, title, test, answer, report.labelled)
            progress.update(bar, description=report.channel, advance=1)

        return evaluate(folder, channels, load, seen)


def _channel_table(report: "Evaluation") -> "Table":
    from rich.table import Table

    table = Table(title=f"{report.model}, point-wise as is")
    table.add_column("channel", no_wrap=True)
    table.add_column("subsystem", no_wrap=True)
    for heading in ("P", "R", "F1", "hit", "false alarms/day", "range rule F1"):
        table.add_column(heading, justify="right")
    for channel in report.channels:
        figures = channel.metrics["model"]
        table.add_row(
            channel.channel,
            channel.subsystem,
            f"{figures.precision:.2f}",
            f"{figures.recall:.2f}",
            f"{figures.f1:.2f}",
            f"{figures.segments_hit}/{figures.segments}",
            f"{figures.false_alarms_per_day:.2f}",
            f"{channel.metrics['range rule'].f1:.2f}",
        )
    return table


def _pooled_table(report: "Evaluation") -> "Table":
    from rich.table import Table

    table = Table(
        title=f"{len(report.channels)} channels pooled",
        caption="hit: labelled segments with a detection. "
        f"{report.samples_per_day} samples per day and channel; random alarms are five "
        "draws; point-adjusted figures reward them",
    )
    table.add_column("detector", no_wrap=True)
    for heading in ("P", "R", "F1", "hit", "false alarms/day", "adj. P", "adj. R", "adj. F1"):
        table.add_column(heading, justify="right")
    for name, figures in report.pooled.items():
        table.add_row(
            name,
            f"{figures.precision:.3f}",
            f"{figures.recall:.3f}",
            f"{figures.f1:.3f}",
            f"{figures.segments_hit}/{figures.segments}",
            f"{figures.false_alarms_per_day:.2f}",
            f"{figures.adjusted_precision:.3f}",
            f"{figures.adjusted_recall:.3f}",
            f"{figures.adjusted_f1:.3f}",
        )
    return table
