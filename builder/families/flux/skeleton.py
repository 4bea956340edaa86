"""Skeletons: the graphs of FLUX.1 at full size, from configurations alone, without weights."""

import json
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.digest import FileDigests, describe_platform, sha256_value, versions_of
from builder.errors import CheckpointError, UsageError
from builder.export.exporter import MODEL
from builder.export.external import write_model
from builder.export.skeleton import check_skeleton, set_types, trace_skeleton
from builder.families.flux.architectures import DEPTHS, released, with_depth
from builder.families.flux.checkpoint import component_config
from builder.families.flux.models import dit_step, text_encoders, vae_decoder
from builder.families.flux.models.variants import LIBRARIES, Variant, widths_of
from builder.families.flux.options import FluxOptions
from builder.files import replace_folder
from builder.record import Record, describe_files
from builder.stage import Stage, TorchSource

STAGES: Mapping[str, Callable[[Variant], Stage]] = {
    "text_encoder": text_encoders.clip_encoder,
    "vae": vae_decoder.stage,
    "text_encoder_2": text_encoders.t5_encoder,
    "transformer": dit_step.stage,
}
"""Component -> the stage that is made of it; the largest one last."""

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class _Architecture(Variant):
    """A checkpoint that has nothing but configurations."""

    def files(self, *names: str) -> tuple[Path, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class SkeletonReport:
    """What exporting a skeleton gave and took.

    Attributes:
        blocks: Blocks of each kind.
        nodes: Nodes of the graph.
        parameters: Values in the weights that the graph reads.
        trace_seconds: Tracing and folding.
        seconds: All of it: building, tracing, checking and writing.
        peak_rss_gib: Largest resident set of this process so far.
        file: The ONNX file; each weight is an input of it.
        bytes: Its size.
    """

    component: str
    stage: str
    variant: str
    weights: str
    blocks: tuple[int, ...]
    nodes: int
    parameters: int
    trace_seconds: float
    seconds: float
    peak_rss_gib: float
    file: str
    bytes: int


def read_configs(folder: Path | None, variant: str | None) -> tuple[str, dict[str, Any]]:
    """The variant, and the configuration of each network.

    Args:
        folder: A checkpoint, of which only the configurations are needed; a component that it
            lacks is taken as it was released. None takes all of them so.
        variant: `schnell` or `dev`; by default what the folder is, or schnell.

    Raises:
        CheckpointError: A configuration is damaged, or there is none.
    """
    if folder is None:
        return variant or "schnell", released(variant or "schnell")
    given = {
        name: component_config(folder, name)
        for name in STAGES
        if (folder / name / "config.json").is_file()
    }
    if not given:
        raise CheckpointError(
            "holds no config.json of a FLUX.1 component",
            where=folder,
            hint=f"expected one below {', '.join(STAGES)}",
        )
    found = "dev" if given.get("transformer", {}).get("guidance_embeds") else "schnell"
    if variant is not None and "transformer" in given and variant != found:
        raise UsageError(f"the transformer is that of FLUX.1 {found}", where=f"--variant {variant}")
    chosen = variant or found
    return chosen, {**released(chosen), **given}


def export_skeleton(
    component: str,
    configs: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    variant: str = "schnell",
    weights: str = "bf16",
    depth: int | None = None,
    options: FluxOptions | None = None,
) -> SkeletonReport:
    """Export the graph of a component at its true size, check it and write it.

    Args:
        component: A key of `STAGES`.
        configs: The configuration of every component.
        folder: Where model.onnx and record.json go; replaced in one step.
        weights: Data type that the weights have, a key of `DTYPES`. The graph computes in FP32.
        depth: Blocks of each kind; all of them by default.

    Raises:
        CheckpointError: The configuration describes no such network.
        ExportError: The exporter or the checker refuses it.
    """
    start = time.perf_counter()
    config = dict(configs[component])
    if depth is not None:
        config = with_depth(config, component, depth)
    try:
        widths = widths_of({**configs, component: config})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"a configuration lacks {error}", where=component) from error
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / component / "config.json"
        place.parent.mkdir()
        place.write_text(json.dumps(config), encoding="utf-8")
        stage = STAGES[component](
            _Architecture(variant, Path(scratch), False, widths, options or FluxOptions())
        )
        source = stage.source
        assert isinstance(source, TorchSource)
        assert source.stored is not None
        skeleton = trace_skeleton(stage, source.stored.module())
    if DTYPES[weights] != "F32":
        set_types(skeleton.model, dict.fromkeys(skeleton.weights, DTYPES[weights]))
    check_skeleton(skeleton.model, f"stage {stage.name}")
    with replace_folder(folder) as staged:
        write_model(skeleton.model, staged / MODEL)
        report = SkeletonReport(
            component=component,
            stage=stage.name,
            variant=variant,
            weights=weights,
            blocks=tuple(int(config[key]) for key in DEPTHS[component]),
            nodes=len(skeleton.model.graph.node),
            parameters=skeleton.parameters,
            trace_seconds=round(skeleton.seconds, 1),
            seconds=round(time.perf_counter() - start, 1),
            peak_rss_gib=round(_peak_rss() / 2**30, 2),
            file=str(folder / MODEL),
            bytes=(staged / MODEL).stat().st_size,
        )
        Record(
            artefact="skeleton",
            model=stage.name,
            made_from={
                "config": sha256_value(config),
                **versions_of("torch", "onnx", "onnxscript", *LIBRARIES),
            },
            measured=asdict(report),
            files=describe_files([staged / MODEL], FileDigests()),
            details={"platform": describe_platform(), "family": "flux", "config": config},
        ).write(staged)
    return report


def _peak_rss() -> int:
    """Largest resident set of this process so far, in bytes.

    `getrusage` would also count what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
