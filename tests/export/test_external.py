"""Exports whose weights stay in the checkpoint's files."""

import errno
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from builder.config import StageOptions
from builder.digest import FileDigests
from builder.engines import onnxruntime as engine
from builder.engines.engine import EngineJob
from builder.engines.trt.checks import mixed_types
from builder.errors import CheckpointError, ExportError, ParityError, RepositoryError
from builder.export import external
from builder.export.exporter import Exporter, export_ingredients
from builder.export.external import PAGE, external_files, outline
from builder.export.parity import onnx_runner
from builder.export.precision import convert
from builder.export.streamed import streamed_onnx_runner
from builder.record import Record
from builder.stage import Arrays, Stage
from builder.target import CPU
from tests.export.stored_stage import by_torch, meta_net, stored_stage, write_shards

ROOT = Path(__file__).parents[2]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(stage: Stage, folder: Path, **arguments: Any) -> Record:
    digests = FileDigests()
    made_from = export_ingredients(stage, digests, 0)
    return Exporter(digests, 0).export(stage, folder, made_from, **arguments)


Exported = Callable[[str], tuple[Path, Record]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A folder with `checkpoint` and its export `net`, by data type; to read only."""

    @functools.cache
    def make(dtype: str) -> tuple[Path, Record]:
        root = tmp_path_factory.mktemp(dtype)
        write_shards(root / "checkpoint", DTYPES[dtype])
        return root, export(stored_stage(root / "checkpoint"), root / "net")

    return make


def example(stage: Stage) -> Arrays:
    return stage.example({"B": 3, "T": 5}, np.random.default_rng(9))


def difference(folder: Path, stage: Stage, **arguments: Any) -> float:
    arrays = example(stage)
    got = onnx_runner(folder / "model.onnx")(arrays)["y"]
    assert got.dtype == np.float32
    return float(np.abs(got - by_torch(stage, arrays, **arguments)).max())


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_weights_stay_where_they_are(exported: Exported, dtype: str) -> None:
    root, record = exported(dtype)
    stage, net = stored_stage(root / "checkpoint"), root / "net"
    assert difference(net, stage) <= 5e-6
    states = [safetensors.torch.load_file(file) for file in stage.source.files]
    size = sum(t.numel() * t.itemsize for state in states for t in state.values())
    assert record.measured["weights"] == {"in_place": size, "streamed": 0}
    assert record.measured["parity"]["worst"] <= 5e-6
    for shard in stage.source.files:
        assert (net / shard.name).samefile(shard)
        assert record.files[shard.name]["sha256"] == FileDigests().sha256(shard)
    # Nothing but small constants is in the file itself.
    model = onnx.load(net / "model.onnx", load_external_data=False)
    inline = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(len(t.raw_data) for t in inline) < 1000
    assert record.damage(net, FileDigests()) == []


def test_what_cannot_be_used_in_place_is_streamed(tmp_path: Path) -> None:
    """FP64, and tensors that begin at an odd byte, as some writers leave them."""
    _, second = write_shards(tmp_path / "checkpoint", torch.float64)
    state = {k: v.float() for k, v in safetensors.torch.load_file(second).items()}
    safetensors.torch.save_file(state, second)
    data = second.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    odd = (header_size + 1).to_bytes(8, "little") + data[8 : 8 + header_size] + b" "
    second.unlink()
    second.write_bytes(odd + data[8 + header_size :])
    stage = stored_stage(tmp_path / "checkpoint")
    record = export(stage, tmp_path / "net")
    assert difference(tmp_path / "net", stage) <= 5e-6
    assert record.measured["weights"]["in_place"] == 0
    model = outline(tmp_path / "net" / "model.onnx")
    assert [f.name for f in external_files(model, tmp_path / "net")] == ["model.onnx.data"]
    offsets = [
        int(e.value) for t in model.graph.initializer for e in t.external_data if e.key == "offset"
    ]
    assert len(offsets) == len(set(offsets)) == 6
    assert all(offset % PAGE == 0 for offset in offsets)


def test_changed_weights_are_streamed_and_the_others_stay(tmp_path: Path) -> None:
    """The seam through which a LoRA is fused."""
    write_shards(tmp_path / "checkpoint", torch.bfloat16)
    delta = torch.randn(40, 24, generator=torch.Generator().manual_seed(1)) / 10
    changes = {"first.weight": lambda weight: weight + delta}
    stage = stored_stage(tmp_path / "checkpoint", changes)
    record = export(stage, tmp_path / "net")
    assert record.measured["weights"]["streamed"] == 40 * 24 * 4
    assert record.measured["weights"]["in_place"] > 0
    assert difference(tmp_path / "net", stage, changes=changes) <= 5e-6
    assert difference(tmp_path / "net", stage) > 1e-2


def test_a_symbolic_link_of_the_hubs_cache(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    shards = write_shards(blobs, torch.float32)
    (tmp_path / "snapshot").mkdir()
    for shard in shards:
        (tmp_path / "snapshot" / shard.name).symlink_to(f"../blobs/{shard.name}")
    stage = stored_stage(tmp_path / "snapshot")
    export(stage, tmp_path / "net")
    for shard in shards:
        assert not (tmp_path / "net" / shard.name).is_symlink()
        assert (tmp_path / "net" / shard.name).samefile(shard)
    assert difference(tmp_path / "net", stage) <= 5e-6


def test_another_file_system_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    shards = write_shards(tmp_path / "checkpoint", torch.bfloat16)
    stage = stored_stage(tmp_path / "checkpoint")
    monkeypatch.setattr(os, "link", refuse)
    export(stage, tmp_path / "net")
    for shard in shards:
        copied = tmp_path / "net" / shard.name
        assert not copied.samefile(shard)
        assert copied.read_bytes() == shard.read_bytes()
    assert difference(tmp_path / "net", stage) <= 5e-6


@pytest.mark.parametrize("place", ["copy", "stream"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_shards(tmp_path / "checkpoint", torch.float64 if place == "stream" else torch.float32)
    stage = stored_stage(tmp_path / "checkpoint")
    opened = Path.open

    class Full:
        def __init__(self, file: Any):
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, offset: int) -> None: ...

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(self, mode, *args, **kwargs)
        return Full(file) if ("x" in mode or "+" in mode) and ".new" in str(self) else file

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(RepositoryError, match=r"No space left on device(.|\n)*free some space"):
        export(stage, tmp_path / "net")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    export(stage, tmp_path / "net")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    for file in write_shards(tmp_path / "checkpoint", torch.bfloat16):
        state = safetensors.torch.load_file(file)
        for name in {"norm.bias", "second.weight"} & set(state):
            state[name].view(-1)[-1] = value
        file.unlink()
        safetensors.torch.save_file(state, file)
    with pytest.raises(CheckpointError) as caught:
        export(stored_stage(tmp_path / "checkpoint"), tmp_path / "net")
    assert "norm.bias holds NaN or Inf; second.weight holds NaN or Inf" in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_a_shard_that_is_truncated_while_exporting(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "checkpoint", torch.float32)

    def truncate_and_make() -> torch.nn.Module:
        os.truncate(shards[1], shards[1].stat().st_size - 8)
        return meta_net()

    stage = stored_stage(tmp_path / "checkpoint", module=truncate_and_make)
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        export(stage, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("phase", ["tracing", "comparing"])
def test_a_shard_that_is_replaced_while_exporting(tmp_path: Path, phase: str) -> None:
    shards = write_shards(tmp_path / "checkpoint", torch.float32)
    stage = stored_stage(tmp_path / "checkpoint")
    replaced = []

    def replace(name: str, done: int, total: int) -> None:
        if name == phase and not replaced:
            replaced.append(name)
            other, _ = write_shards(tmp_path / "other", torch.float32, seed=1)
            other.replace(shards[0])

    # Whichever notices first: the comparison with what is read now, or the digest at the end.
    with pytest.raises((CheckpointError, ParityError)) as caught:
        export(stage, tmp_path / "net", progress=replace)
    if phase == "tracing":
        assert "the checkpoint changed while it was exported" in str(caught.value)
    assert not (tmp_path / "net").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.export.test_external import export
from tests.export.stored_stage import stored_stage

def kill(phase, done, total):
    if phase == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

root = Path(sys.argv[1])
export(stored_stage(root / "checkpoint"), root / "net", progress=kill)
"""


@pytest.mark.parametrize("phase", ["comparing"])
def test_a_killed_export_leaves_nothing_that_counts(tmp_path: Path, phase: str) -> None:
    write_shards(tmp_path / "checkpoint", torch.bfloat16)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), phase], cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "net").exists()
    stage = stored_stage(tmp_path / "checkpoint")
    export(stage, tmp_path / "net")
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint", "net"}
    assert difference(tmp_path / "net", stage) <= 5e-6


@pytest.mark.parametrize("stored", list(DTYPES))
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_another_precision_is_cast_one_weight_at_a_time(
    exported: Exported, tmp_path: Path, stored: str, precision: str
) -> None:
    root, _ = exported(stored)
    stage = stored_stage(root / "checkpoint")
    target = convert(root / "net" / "model.onnx", tmp_path / "model.onnx", precision)
    model = outline(target)
    assert mixed_types(model) == []
    names = {f.name for f in external_files(model, target.parent)}
    # Weights that are in that precision already stay where they are.
    assert (f"model.onnx.{precision}" in names) == (stored != precision)
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    kind = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert {types[n.output[0]] for n in products} == {kind}
    norms = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    assert {types[n.output[0]] for n in norms} == {onnx.TensorProto.FLOAT}
    if precision == "fp16":  # ONNX Runtime has no bfloat16 products on the CPU
        arrays = example(stage)
        want = by_torch(stage, arrays)
        error = np.abs(onnx_runner(target)(arrays)["y"] - want).max()
        assert 0 < error / np.abs(want).max() <= 1e-3


def test_the_engine_links_the_weights(exported: Exported, tmp_path: Path) -> None:
    root, _ = exported("bf16")
    stage = stored_stage(root / "checkpoint")
    job = EngineJob(stage, CPU, root / "net" / "model.onnx", StageOptions(), tmp_path)
    files = engine.build(job)
    shards = stage.source.files
    assert [f.name for f in files] == ["model.onnx", *(s.name for s in shards)]
    assert all(f.samefile(s) for f, s in zip(files[1:], shards, strict=True))
    arrays = example(stage)
    got = engine.runner(stage, files)(arrays)["y"]
    np.testing.assert_allclose(got, by_torch(stage, arrays), rtol=0, atol=5e-6)


@pytest.mark.parametrize("piece_bytes", [1, 4000, 1 << 30])
def test_a_model_in_pieces_is_the_model(exported: Exported, piece_bytes: int) -> None:
    root, _ = exported("fp16")
    stage = stored_stage(root / "checkpoint")
    arrays = example(stage)
    got = streamed_onnx_runner(root / "net" / "model.onnx", piece_bytes)(arrays)
    assert list(got) == ["y"]
    np.testing.assert_allclose(got["y"], by_torch(stage, arrays), rtol=0, atol=5e-6)


def test_a_model_beyond_the_memory_is_run_in_pieces(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = exported("bf16")
    stage = stored_stage(root / "checkpoint")
    read_text = Path.read_text

    def little(self: Path, *args: Any, **kwargs: Any) -> str:
        if str(self) == "/proc/meminfo":
            return "MemTotal: 64 kB\nMemAvailable: 32 kB\n"
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", little)
    run = onnx_runner(root / "net" / "model.onnx")
    assert "streamed" in run.__module__
    arrays = example(stage)
    np.testing.assert_allclose(run(arrays)["y"], by_torch(stage, arrays), rtol=0, atol=5e-6)


@pytest.mark.parametrize("location", ["../model.safetensors", "/etc/passwd", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    tensor = external.external_tensor("w", (2,), "F32", location, 0, 8)
    model = onnx.ModelProto()
    model.graph.initializer.append(tensor)
    with pytest.raises(ExportError, match="w of type FLOAT lies in"):
        external_files(model, tmp_path)


def test_a_large_file_is_hashed_once_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.digest.LARGE", 10)
    told: list[str] = []
    digests = FileDigests()
    digests.progress = lambda phase, done, total: told.append(phase)
    (tmp_path / "a").write_bytes(b"0123456789abc")
    first = digests.sha256(tmp_path / "a")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert digests.sha256(tmp_path / "b") == first
    assert told == ["hashing a"]
    (tmp_path / "c").write_bytes(b"0123456789xyz")
    assert digests.sha256(tmp_path / "c") != first
