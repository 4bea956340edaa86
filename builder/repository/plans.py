"""The TensorRT plans of a model: several files in one version folder, one config for all.

    tensorrt/X_trt/config.pbtxt        cc_model_filenames: 8.0 -> sm80.plan, 9.0 -> sm90.plan
    tensorrt/X_trt/1/sm80.plan         published by one machine,
    tensorrt/X_trt/1/sm80.plan.json    with its record,
    tensorrt/X_trt/1/sm90.plan         and by another

Each machine adds its own files. The table is made from the files that are there, while the lock
of the model is held, so no machine can lose what another one added.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import RepositoryError, UsageError
from builder.record import Record, read_record
from builder.repository.names import check_name
from builder.repository.publish import versions
from builder.target import target_of

GROUP = "tensorrt"
SUFFIX = ".plan"
FALLBACK = "model.plan"

_NAMED = re.compile(r"sm([0-9]+)([0-9])\.plan")


@dataclass(frozen=True, slots=True)
class PublishedPlan:
    """One plan in the repository.

    Attributes:
        model: Name of the model, for example `SMAP_A-1_trt`.
        compute_capability: For example `9.0`.
        record: What it was made from; None if its record is missing or unreadable.
    """

    model: str
    version: int
    path: Path
    compute_capability: str
    record: Record | None


def record_name(plan: str) -> str:
    """Name of the record beside a plan: `sm90.plan` -> `sm90.plan.json`."""
    return f"{plan}.json"


def plan_table(folder: Path) -> dict[str, str]:
    """`cc_model_filenames` of the model in a folder: compute capability -> file.

    The plans of all versions count: which version is served may change without this table.

    Raises:
        RepositoryError: Two plans are for one compute capability, a name is unsafe, or there is a
            `model.plan`, which Triton loads silently on GPUs that the table does not list.
    """
    table: dict[str, str] = {}
    for plan in plans_in(folder):
        name = check_name(plan.path.name, "plan name")
        if (other := table.setdefault(plan.compute_capability, name)) != name:
            raise RepositoryError(
                f"{other} and {name} are both for compute capability {plan.compute_capability}",
                where=folder,
                hint="keep one of them: remove the other file and its record",
            )
    for version in versions(folder):
        if (folder / str(version) / FALLBACK).exists():
            raise RepositoryError(
                "on a GPU without a plan of its own, Triton would load this one silently",
                where=folder / str(version) / FALLBACK,
                hint="remove it, or rename it to the compute capability it is for: sm90.plan",
            )
    return dict(sorted(table.items(), key=lambda item: float(item[0])))


def plans_in(folder: Path) -> Iterator[PublishedPlan]:
    """The plans of a model, by version and name; files that say nowhere what they are for are not.

    Raises:
        RepositoryError: A record names a compute capability that does not exist.
    """
    for version in versions(folder):
        for path in sorted((folder / str(version)).glob(f"*{SUFFIX}")):
            record = read_record(path.parent, record_name(path.name))
            match = _NAMED.fullmatch(path.name)
            capability = str(record.details.get("compute_capability", "")) if record else ""
            if not capability and match:
                capability = f"{match[1]}.{match[2]}"
            if not capability:
                continue
            try:
                target_of(capability)
            except UsageError as error:
                raise RepositoryError(
                    f"{capability!r} is no compute capability",
                    where=path.parent / record_name(path.name),
                    hint="build the plan again",
                ) from error
            yield PublishedPlan(folder.name, version, path, capability, record)


def published_plans(repository: Path) -> Iterator[PublishedPlan]:
    """Every plan of a repository, by model, version and name."""
    group = repository / GROUP
    if group.is_dir():
        for folder in sorted(f for f in group.iterdir() if f.is_dir() and f.name[0] != "."):
            yield from plans_in(folder)
