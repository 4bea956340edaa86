"""Taking the actions of a plan that are out of date."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.build.action import Action, State, evaluate_one
from builder.digest import FileDigests
from builder.errors import BuilderError, from_os_error
from builder.record import Record

_SCRATCH = ("engine-*", "plan-*")
"""Folders in which engines and plans are made, below the folder of the lock."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one action.

    Attributes:
        status: `current`, `made`, `failed` or `skipped` (something that it needs failed).
        reasons: Why it had to be made.
        record: The record of the artefact that is there now, if there is one.
        error: What went wrong.
    """

    status: str
    reasons: tuple[str, ...] = ()
    record: Record | None = None
    error: BuilderError | None = None

    @property
    def ok(self) -> bool:
        """Whether the artefact is there and up to date."""
        return self.status in ("current", "made")


@dataclass(slots=True)
class Listener:
    """Hears about the progress of a build; the default says nothing.

    Attributes:
        started: Called with the number of actions to take.
        taking: Called before an action is taken.
        taken: Called after it.
    """

    started: Callable[[int], None] = field(default=lambda count: None)
    taking: Callable[[Action], None] = field(default=lambda action: None)
    taken: Callable[[Action, Outcome], None] = field(default=lambda action, outcome: None)


def execute(
    plan: list[Action],
    digests: FileDigests,
    *,
    force: bool = False,
    listener: Listener | None = None,
) -> dict[Action, Outcome]:
    """Take every action that is out of date, in order.

    A failure does not end the build: what depends on it is skipped and keeps its last good
    version, the rest is built.

    Returns:
        The outcome of each action of the plan.
    """
    listener = listener or Listener()
    states: dict[Action, State] = {}
    for action in plan:
        states[action] = evaluate_one(action, states, digests, force=force)
    listener.started(sum(not state.current for state in states.values()))
    outcomes: dict[Action, Outcome] = {}
    for action in plan:
        outcomes[action] = _take(action, states[action], outcomes, digests, force, listener)
    digests.save()
    return outcomes


def _take(
    action: Action,
    state: State,
    outcomes: dict[Action, Outcome],
    digests: FileDigests,
    force: bool,
    listener: Listener,
) -> Outcome:
    if state.current:
        return Outcome("current", record=state.record)
    listener.taking(action)
    outcome = _make(action, state, outcomes, digests, force)
    listener.taken(action, outcome)
    return outcome


def _make(
    action: Action,
    state: State,
    outcomes: dict[Action, Outcome],
    digests: FileDigests,
    force: bool,
) -> Outcome:
    broken = [need for need in action.needs if not outcomes[need].ok]
    if broken:
        return Outcome("skipped", (f"{broken[0]} failed",), action.read_record())
    try:
        made_from = state.made_from
        if made_from is None:  # what it needs was rebuilt in the meantime, maybe to the same
            made_from = action.ingredients()
            present = action.read_record()
            if (
                not force
                and present is not None
                and not present.changes(made_from)
                and not present.damage(action.folder, digests)
            ):
                return Outcome("current", record=present)
        return Outcome("made", state.reasons, action.make(made_from))
    except BuilderError as error:
        return Outcome("failed", state.reasons, action.read_record(), error)
    except OSError as error:
        return Outcome(
            "failed",
            state.reasons,
            action.read_record(),
            from_os_error(error, f"making {action}", error.filename or action.folder),
        )
    except Exception as error:
        # One model that breaks in a new way must not keep the others from being built.
        if os.environ.get("BUILDER_DEBUG"):
            raise
        unexpected = BuilderError(
            f"{type(error).__name__}: {error}",
            where=str(action),
            hint="run again with BUILDER_DEBUG=1 for the traceback",
        )
        return Outcome("failed", state.reasons, action.read_record(), unexpected)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the build lock of a folder: one build at a time. What a killed one left is removed.

    Raises:
        BuilderError: Another build holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "build.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(error, "locking", folder) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise BuilderError(
                f"another build is running{f' (process {owner})' if owner else ''}",
                where=folder,
                hint="wait for it, or stop it; an interrupted build resumes where it stopped",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        for leftover in (f for kind in _SCRATCH for f in folder.glob(kind)):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)
