"""Failed plan builds, kept so that `builder fleet status` can say why a plan is missing.

One small file per model and target, `build/failures/<model>.<target>.json`. Whoever builds a plan
calls `record_failure` where the build raises and `clear_failure` where it succeeds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder.errors import BuilderError
from builder.files import write_atomic
from builder.repository.names import check_name
from builder.target import Target

_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Failure:
    """One build that failed.

    Attributes:
        model: Name of the model, for example `SMAP_A-1_trt`.
        target: Name of the target.
        reason: What went wrong.
        hint: What to do about it; empty if nobody knows.
        when: Time in UTC, ISO 8601.
    """

    model: str
    target: str
    reason: str
    hint: str = ""
    when: str = ""


def record_failure(build_dir: Path, model: str, target: Target, error: BaseException) -> None:
    """Remember that a plan could not be built.

    Raises:
        RepositoryError: The model's name is unsafe, or the file cannot be written.
    """
    if isinstance(error, BuilderError):
        reason, hint = error.what, error.hint or ""
    else:
        reason, hint = f"{type(error).__name__}: {error}", ""
    failure = Failure(
        model=model,
        target=target.name,
        reason=reason[:_LONGEST],
        hint=hint[:_LONGEST],
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    data = json.dumps(asdict(failure), indent=2, sort_keys=True) + "\n"
    write_atomic(_file(build_dir, model, target), data.encode())


def clear_failure(build_dir: Path, model: str, target: Target) -> None:
    """Forget an earlier failure, if there was one.

    Raises:
        RepositoryError: The model's name is unsafe.
    """
    _file(build_dir, model, target).unlink(missing_ok=True)


def read_failures(build_dir: Path) -> Mapping[tuple[str, str], Failure]:
    """Every remembered failure by model and target; files that cannot be read are left out."""
    found = {}
    for file in sorted((build_dir / "failures").glob("*.json")):
        try:
            failure = Failure(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        found[failure.model, failure.target] = failure
    return found


def _file(build_dir: Path, model: str, target: Target) -> Path:
    return build_dir / "failures" / f"{check_name(model, 'model name')}.{target.name}.json"
