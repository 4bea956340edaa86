"""What became of each model: the repository index, with the log where the index is silent.

The index (`POST /v2/repository/index`) gives the reason of most failures. It has none for a
config.pbtxt that cannot be parsed, and leaves out models without any version; the server only logs
those.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"

_LOGGED = (
    re.compile(r"failed to poll model '(?P<name>[^']+)': (?P<reason>.*)"),
    re.compile(r"Poll failed for model directory '(?P<name>[^']+)': (?P<reason>.*)"),
    re.compile(r"failed to load model '(?P<name>[^']+)': (?P<reason>.*)"),
    re.compile(r"failed to load '(?P<name>[^']+)' version \d+: (?P<reason>.*)"),
    re.compile(r"ensemble '(?P<name>[^']+)' (?P<reason>depends on .*)"),
)
_PARSE_ERROR = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<reason>.*)")
# A python backend's traceback ends with the location of each frame.
_AT = re.compile(r"\s*\n\s*At:\s*\n.*", re.DOTALL)
_DEPENDS = re.compile(
    r"(?:ensemble '[^']+' )?depends on '(?P<on>[^']+)' which has no loaded version"
)
_STATUS = re.compile(r"(?:(?:Internal|Invalid argument|Not found|Unsupported|ValueError): )+")


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of one model on the server.

    Attributes:
        version: Empty where no version was loaded.
        state: READY, LOADING, UNLOADING or UNAVAILABLE.
        reason: Why it is not ready.
    """

    name: str
    version: str
    state: str
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == READY


def from_index(
    index: Sequence[Mapping[str, Any]], expected: Iterable[str] = (), log: str = ""
) -> list[ModelState]:
    """States of the models of an index, sorted by name, causes before their consequences.

    Args:
        index: The answer of the server.
        expected: Models that should be there; one that is not is UNAVAILABLE.
        log: The server's log, for reasons that the index lacks.
    """
    wanted = set(expected)
    logged = reasons_in_log(log)
    states = []
    for entry in index:
        name = str(entry["name"])
        state = str(entry.get("state") or "")
        if not state and name not in wanted:
            continue  # known to the repository, but nobody asked for it to be loaded
        reason = str(entry.get("reason") or "")
        states.append(
            ModelState(
                name,
                str(entry.get("version", "")),
                state or UNAVAILABLE,
                _tidy(reason or logged.get(name, "")) if state != READY else "",
            )
        )
    states += [
        ModelState(name, "", UNAVAILABLE, _tidy(logged.get(name, "")) or _SILENT)
        for name in wanted - {state.name for state in states}
    ]
    return sorted(states, key=lambda s: (s.ready, s.reason.startswith("needs "), s.name))


_SILENT = "the server does not say why; run it with --log-level info"


def reasons_in_log(log: str) -> dict[str, str]:
    """Model -> why it failed, from the error messages of the server's log."""
    reasons: dict[str, str] = {}
    parse_error = ""
    for line in log.splitlines():
        if found := _PARSE_ERROR.search(line):
            parse_error = found["reason"]
        for pattern in _LOGGED:
            if found := pattern.search(line):
                reason = found["reason"].removesuffix('"')
                if parse_error and "failed to read text proto" in reason:
                    reason = f"config.pbtxt: {parse_error}"
                    parse_error = ""
                reasons[Path(found["name"]).name] = reason
    return reasons


def describe_failures(failures: Sequence[ModelState]) -> str:
    """The failed models and their reasons, one per line."""
    count = f"{len(failures)} model{'s' if len(failures) != 1 else ''} failed to load"
    return "\n".join([count, *(f"  {s.name}: {s.reason}" for s in failures)])


def models_in(repository: Path) -> list[str]:
    """Names of the models in a repository folder: every folder but hidden ones."""
    if not repository.is_dir():
        return []
    return sorted(p.name for p in repository.iterdir() if p.is_dir() and p.name[0] != ".")


def _tidy(reason: str) -> str:
    """The reason as one line: no status prefix, no stack frames, no reason of another model."""
    if found := _DEPENDS.search(reason):
        return f"needs {found['on']}, which did not load"
    reason = _AT.sub("", reason.replace("\\n", "\n"))
    if found := _STATUS.match(reason):
        reason = reason[found.end() :]
    return " ".join(reason.split()).rstrip(";. ")
