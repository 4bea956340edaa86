"""What plans should have been built from: today's exports, or the ONNX twins beside the plans.

Where the exports are (on the machine that builds) their SHA-256 is compared with the one in the
plan's record. A repository that was shipped elsewhere has no exports; there the record of the
ONNX twin tells which export it came from, and the plan must come from the same one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.digest import FileDigests
from builder.preflight.plan import PlanRecord
from builder.record import read_record


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the ONNX models are that plans are built from.

    Args:
        repository: Root of the model repository, or its folder `tensorrt`.
        exports: Stage -> its ONNX file; stages that are not in it are looked up in the
            repository.
        digests: Digests of files that are known already.
    """

    repository: Path
    exports: Mapping[str, Path] = field(default_factory=dict)
    digests: FileDigests = field(default_factory=FileDigests)

    def changes(self, stage: str, version: int, plan: PlanRecord) -> Iterator[str]:
        """Why the plan of a stage is out of date, in words; nothing where it is not."""
        export = self.exports.get(stage)
        if export is not None and export.is_file():
            present = plan.record.details.get("export_sha256") or plan.onnx_sha256
            if present and self.digests.sha256(export) != present:
                yield "is older than the ONNX model that it was built from"
            return
        twin = self._twin_record(stage, version)
        here, there = plan.record.made_from.get("export"), (twin or {}).get("export")
        if here and there and here != there:
            yield f"was built from another export than the ONNX model {stage}"

    def _twin_record(self, stage: str, version: int) -> Mapping[str, str] | None:
        for root in (self.repository, self.repository.parent):
            record = read_record(root / "onnx" / stage / str(version))
            if record is not None:
                return record.made_from
        return None
