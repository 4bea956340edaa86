"""Making the export of a stage: ONNX file, parity against its source, golden request."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.digest import FileDigests, code_digest, describe_platform, sha256_value, versions_of
from builder.errors import CheckpointError, ExportError
from builder.export.external import Progress, silent
from builder.export.parity import Runner, check_parity, onnx_runner, torch_runner
from builder.export.streamed import streamed_onnx_runner
from builder.files import replace_folder
from builder.golden import GOLDEN, golden_bytes
from builder.record import Record, describe_files
from builder.stage import Stage, TorchSource

if TYPE_CHECKING:
    import onnx

    from builder.export.skeleton import Skeleton

MODEL = "model.onnx"

_EXTERNAL_DATA_FROM = 1 << 30
"""Above this many bytes the weights go into a file of their own: protobuf ends at 2 GiB."""


def export_ingredients(stage: Stage, digests: FileDigests, stream_from: int) -> dict[str, str]:
    """What decides the content of a stage's export; nothing heavy is imported.

    Args:
        stream_from: See `Exporter`.
    """
    source = stage.source
    ingredients = {
        "code": code_digest("builder.export", "builder.stage", *source.code),
        "signature": sha256_value(
            [
                [str(t) for t in (*stage.inputs, *stage.outputs)],
                [dict(shape) for shape in stage.shapes],
                [stage.tolerance.atol, stage.tolerance.rtol, stage.tolerance.levels],
            ]
        ),
        **versions_of("onnx", *source.libraries),
    }
    if source.settings:
        ingredients["settings"] = sha256_value(dict(source.settings))
    if isinstance(source, TorchSource):
        ingredients |= versions_of("torch", "onnxscript")
        if streamed(source, stream_from):
            ingredients["weights"] = "in place"
    if source.files:
        ingredients["checkpoint"] = digests.combined(source.files)
    return ingredients


def streamed(source: TorchSource, stream_from: int) -> bool:
    """Whether the weights of a source are exported without being held in memory."""
    weights = [f for f in source.files if f.suffix == ".safetensors" and f.is_file()]
    return source.stored is not None and sum(f.stat().st_size for f in weights) >= stream_from


@dataclass(slots=True)
class Exporter:
    """Exports stages; keeps each traced graph for the stages that share it.

    Args:
        digests: Digests of files.
        stream_from: Weights of so many bytes and more are never held in memory.
    """

    digests: FileDigests
    stream_from: int = 1 << 30
    _graphs: "dict[str, onnx.ModelProto]" = field(default_factory=dict)
    _skeletons: "dict[str, Skeleton]" = field(default_factory=dict)

    def export(
        self,
        stage: Stage,
        folder: Path,
        made_from: Mapping[str, str],
        progress: Progress = silent,
    ) -> Record:
        """Export a stage into `folder`: model.onnx, golden.npz, record.json.

        The folder appears only after the export was compared with its source at every shape of
        the stage.

        Args:
            progress: Told about the phases of a long export.

        Raises:
            CheckpointError: The checkpoint cannot be loaded, or changed in the meantime.
            ExportError: The exporter failed, or the graph does not have the stage's signature.
            ParityError: The export computes something else than its source.
        """
        start = time.perf_counter()
        source = stage.source
        with replace_folder(folder) as staged:
            path = staged / MODEL
            run: Callable[[Path], Runner] = onnx_runner
            notes: Mapping[str, Any] = {}
            if isinstance(source, TorchSource) and streamed(source, self.stream_from):
                reference, notes = self._stream(stage, source, path, progress)
                run = streamed_onnx_runner
            elif isinstance(source, TorchSource):
                module = source.load()
                reference = torch_runner(stage, module)
                self._save(self._trace(stage, source, module), stage, path)
            else:
                reference = source.reference
                self._save(source.build(), stage, path)
            check_signature(stage, path)
            seconds = time.perf_counter() - start
            parity, (inputs, outputs) = check_parity(
                stage, run(path), reference, what="the export", progress=progress
            )
            self._check_unchanged(stage, made_from)
            (staged / GOLDEN).write_bytes(golden_bytes(inputs, outputs))
            record = Record(
                artefact="export",
                model=stage.name,
                made_from=dict(made_from),
                measured={"parity": parity.to_json(), "seconds": round(seconds, 3), **notes},
                files=describe_files(sorted(staged.iterdir()), self.digests),
                details={"platform": describe_platform(), "family": stage.family},
            )
            record.write(staged)
        return record

    def _save(self, model: "onnx.ModelProto", stage: Stage, path: Path) -> None:
        import onnx

        save(model, path)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except Exception as error:
            raise ExportError(
                f"the ONNX checker refuses the graph: {error}", where=f"stage {stage.name}"
            ) from error

    def _stream(
        self, stage: Stage, source: TorchSource, path: Path, progress: Progress
    ) -> tuple[Runner, dict[str, Any]]:
        """Write the ONNX file with its weights in place; what PyTorch computes; what was done."""
        import onnx

        from builder.export.external import place_weights, stored_types
        from builder.export.skeleton import check_skeleton, set_types, trace_skeleton
        from builder.export.streamed import streamed_torch_runner

        assert source.stored is not None
        types = stored_types(source.stored)  # a checkpoint that does not fit fails at once
        progress("tracing", 0, 1)
        skeleton = self._skeletons.get(source.graph or "")
        if skeleton is None:
            skeleton = trace_skeleton(stage, source.stored.module())
            if source.graph is not None:
                self._skeletons[source.graph] = skeleton
        progress("tracing", 1, 1)
        model = onnx.ModelProto()
        model.CopyFrom(skeleton.model)
        set_types(model, {name: types[name] for name in skeleton.weights})
        check_skeleton(model, f"stage {stage.name}")
        placed = place_weights(model, skeleton.weights, source.stored, path, progress)
        notes = {"parameters": skeleton.parameters, "weights": placed}
        return streamed_torch_runner(stage, source.stored), notes

    def _check_unchanged(self, stage: Stage, made_from: Mapping[str, str]) -> None:
        """Check that the checkpoint still is what the export was begun with.

        Raises:
            CheckpointError: It is not.
        """
        before = made_from.get("checkpoint")
        if before is not None and self.digests.combined(stage.source.files) != before:
            raise CheckpointError(
                "the checkpoint changed while it was exported",
                where=stage.source.files[0].parent,
                hint="wait until its files are complete, and export again",
            )

    def _trace(self, stage: Stage, source: TorchSource, module: Any) -> "onnx.ModelProto":
        from builder.export.trace import trace
        from builder.export.weights import swap_weights

        if source.graph is None:
            return trace(stage, module, optimize=True)
        # Modules of one class may still trace differently; those that can say how.
        graph = f"{source.graph}: {getattr(module, 'graph_variant', '')}"
        if graph not in self._graphs:
            self._graphs[graph] = trace(stage, module, optimize=False)
        return swap_weights(self._graphs[graph], module.state_dict(), where=f"stage {stage.name}")


def check_signature(stage: Stage, path: Path) -> None:
    """Check that an ONNX file has exactly the inputs and outputs that its stage declares.

    Raises:
        ExportError: A name, data type or dim differs; both sides are named.
    """
    from builder.repository.signature import onnx_signature

    found = onnx_signature(path)
    for kind, have, want in (
        ("input", found.inputs, stage.inputs),
        ("output", found.outputs, stage.outputs),
    ):
        if [(t.name, t.dtype) for t in have] != [(t.name, t.dtype) for t in want]:
            raise ExportError(
                f"the graph has the {kind}s {'; '.join(map(str, have))}, "
                f"declared are {'; '.join(map(str, want))}",
                where=f"stage {stage.name}",
            )
        for a, b in zip(have, want, strict=True):
            # Where the stage has a symbol the graph must be dynamic; it may call it differently.
            fits = len(a.dims) == len(b.dims) and all(
                isinstance(y, str) == isinstance(x, str) and (isinstance(y, str) or x == y)
                for x, y in zip(a.dims, b.dims, strict=True)
            )
            if not fits:
                raise ExportError(
                    f"the graph has {a}, declared is {b}",
                    where=f"stage {stage.name}",
                    hint="a number in place of a symbol means that the size was frozen",
                )


def save(model: "onnx.ModelProto", path: Path) -> None:
    """Write a model; weights beyond protobuf's limit go to `<name>.data` beside it."""
    import onnx

    large = sum(len(i.raw_data) for i in model.graph.initializer) > _EXTERNAL_DATA_FROM
    onnx.save(model, str(path), save_as_external_data=large, location=path.name + ".data")
