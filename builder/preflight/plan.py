"""Plans and the records beside them: `sm90.plan` and `sm90.plan.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.record import Record, read_record
from builder.repository.plans import record_name

VERSION_COMPATIBLE = "VERSION_COMPATIBLE"
AMPERE_PLUS = "AMPERE_PLUS"


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What the record of a plan says about where the plan runs and what it was made from.

    Attributes:
        record: The record itself.
        tensorrt: Version of TensorRT that built it; empty if the record does not say.
        capability: Compute capability that it was built on, for example `9.0`.
        gpu: Name of that GPU.
        os: Operating system and processor of the machine that built it.
        flags: Names of builder flags and of the hardware compatibility level, in upper case.
        onnx_sha256: SHA-256 of the ONNX file that it was built from.
    """

    record: Record
    tensorrt: str
    capability: str
    gpu: str
    os: str
    flags: frozenset[str]
    onnx_sha256: str

    @property
    def version_compatible(self) -> bool:
        """Whether other TensorRT versions of the same major version may load it."""
        return VERSION_COMPATIBLE in self.flags


def read_plan_record(plan: Path) -> PlanRecord | None:
    """The record beside a plan; None if there is none or it cannot be read."""
    try:
        record = read_record(plan.parent, record_name(plan.name))
        if record is None:
            return None
        for facts in record.files.values():
            int(facts["size"])  # what is compared later must be there
        details = record.details
        return PlanRecord(
            record=record,
            tensorrt=str(details.get("tensorrt", "")),
            capability=str(details.get("compute_capability", "")),
            gpu=str(details.get("gpu", "")),
            os=str(details.get("os", "")),
            flags=_flags(details),
            onnx_sha256=str(details.get("onnx_sha256", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _flags(details: Mapping[str, Any]) -> frozenset[str]:
    """Names of the flags that are set, however the record lists them (names, or name -> value)."""
    flags = details.get("flags", ())
    words = []
    if isinstance(flags, Mapping):
        for name, value in flags.items():
            words += [str(value)] if isinstance(value, str) else [str(name)] if value else []
    else:
        words += [str(flag) for flag in flags]
    return frozenset(word.upper().rpartition(".")[2] for word in words)
