"""Steps that run in processes of their own, and a report of how they went.

A step that raises, hangs, or takes its process down with it (as a CUDA library may) is reported
as failed, and the others still run.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from builder.files import write_atomic

Status = Literal["passed", "failed", "skipped"]

_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step went.

    Attributes:
        status: `skipped` where something that it needs is not here.
        why: Why it failed or was skipped; empty if it passed.
        seconds: How long it took.
        measured: What it measured.
    """

    name: str
    status: Status
    why: str = ""
    seconds: float = 0.0
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """All steps, and what they ran on.

    Attributes:
        title: First line of the report.
        environment: What the machine is: GPU, driver, versions.
        missing: What is not here, in words.
    """

    title: str
    environment: Mapping[str, str]
    missing: Sequence[str]
    steps: Sequence[StepResult]

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed."""
        statuses = {step.status for step in self.steps}
        return "passed" in statuses and "failed" not in statuses

    def to_json(self) -> dict[str, Any]:
        """For the JSON file."""
        return {"ok": self.ok, **asdict(self)}

    def to_markdown(self) -> str:
        """For people."""
        lines = [f"# {self.title}", ""]
        lines += [f"- {name}: {value}" for name, value in self.environment.items()]
        lines += [f"- missing: {what}" for what in self.missing]
        lines += ["", "| step | result | seconds | why |", "|---|---|---|---|"]
        for step in self.steps:
            why = step.why.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {step.name} | {step.status} | {step.seconds:.1f} | {why} |")
        for step in self.steps:
            if step.measured:
                text = json.dumps(step.measured, indent=1, sort_keys=True)
                lines += ["", f"## {step.name}", "", "```json", text, "```"]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `report.json` and `report.md`.

        Returns:
            Both paths.

        Raises:
            BuilderError: The folder cannot be written.
        """
        paths = folder / "report.json", folder / "report.md"
        write_atomic(paths[0], (json.dumps(self.to_json(), indent=1) + "\n").encode())
        write_atomic(paths[1], self.to_markdown().encode())
        return paths


def run_isolated(
    names: Iterable[str],
    command: Callable[[str, Path], Sequence[str]],
    folder: Path,
    *,
    skip: Callable[[str], str] = lambda name: "",
    timeout: float = 3600.0,
    started: Callable[[str], None] = lambda name: None,
) -> list[StepResult]:
    """Run each step as a command of its own.

    Args:
        command: From the name of a step and a result file to the words of its command, which
            writes what it measured into the file, as a JSON object.
        folder: Where result files go.
        skip: Why a step cannot be run here; empty if it can.
        timeout: Seconds that a step may take.
        started: Called with the name of each step that is run.
    """
    results = []
    for name in names:
        if why := skip(name):
            results.append(StepResult(name, "skipped", why))
            continue
        started(name)
        results.append(_run(name, command, folder, timeout))
    return results


def _run(
    name: str, command: Callable[[str, Path], Sequence[str]], folder: Path, timeout: float
) -> StepResult:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.unlink(missing_ok=True)
    start = time.perf_counter()

    def failed(why: str) -> StepResult:
        return StepResult(name, "failed", why, time.perf_counter() - start)

    try:
        done = subprocess.run(
            command(name, file),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return failed(f"took longer than {timeout:g} s")
    except OSError as error:
        return failed(f"could not be started: {error}")
    said = "\n".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
    if done.returncode < 0:
        try:
            ended = signal.Signals(-done.returncode).name
        except ValueError:
            ended = f"signal {-done.returncode}"
        return failed(f"ended by {ended}: {said}")
    if done.returncode > 0:
        return failed(said or f"exit code {done.returncode}")
    try:
        measured = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return failed(f"left no result: {said}")
    return StepResult(name, "passed", "", time.perf_counter() - start, measured)
