"""Actions: the steps of a build, and whether each still has to be taken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.digest import FileDigests
from builder.record import NAME, Record, read_record

Ingredients = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Action:
    """One artefact and how to make it.

    Attributes:
        artefact: What is made: `export`, an engine kind, or `ensemble`.
        model: Name of the stage or of the published model.
        folder: Where the artefact and its record are kept.
        needs: Actions that come first, and without which this one cannot be taken.
        after: Actions that come first, too, but may fail.
        record_name: File name of the record in the folder; artefacts may share one.
        target: Name of the target, where each has an artefact of its own.
        ingredients: What the artefact is made from, as digests and versions; cheap, and only
            asked for when everything in `needs` is up to date.
        make: Makes the artefact, its folder and its record.
    """

    artefact: str
    model: str
    folder: Path
    needs: tuple["Action", ...] = ()
    ingredients: Callable[[], Ingredients]
    make: Callable[[Mapping[str, str]], Record]
    after: tuple["Action", ...] = ()
    record_name: str = NAME
    target: str = ""

    def __str__(self) -> str:
        return f"{self.artefact} {self.model}" + (f" ({self.target})" if self.target else "")

    def read_record(self) -> Record | None:
        """The record of the present artefact, if there is one."""
        return read_record(self.folder, self.record_name)


@dataclass(frozen=True, slots=True)
class State:
    """Whether an action has to be taken.

    Attributes:
        reasons: Why, in words; empty if the artefact is up to date.
        made_from: Today's ingredients; None while something that it needs is out of date.
        record: The record of the present artefact, if there is one.
    """

    reasons: tuple[str, ...]
    made_from: Ingredients | None
    record: Record | None

    @property
    def current(self) -> bool:
        """Whether there is nothing to do."""
        return not self.reasons


def evaluate(
    actions: list[Action], digests: FileDigests, *, force: bool = False
) -> dict[Action, State]:
    """The state of each action; `actions` must be in an order in which needs come first."""
    states: dict[Action, State] = {}
    for action in actions:
        states[action] = evaluate_one(action, states, digests, force=force)
    return states


def evaluate_one(
    action: Action, states: Mapping[Action, State], digests: FileDigests, *, force: bool = False
) -> State:
    """The state of one action, given the states of what it needs."""
    record = action.read_record()
    if record is None:
        return State(("not built yet",), None, None)
    stale = [need for need in (*action.needs, *action.after) if not states[need].current]
    if stale:
        # The cause is what people want to read, not "the export will change".
        reasons = {
            f"{reason} ({need})" if need.model != action.model else reason
            for need in stale
            for reason in states[need].reasons
        }
        return State(tuple(sorted(reasons)), None, record)
    made_from = action.ingredients()
    problems = record.changes(made_from) or record.damage(action.folder, digests)
    if force and not problems:
        problems = ["forced"]
    return State(tuple(problems), made_from, record)
