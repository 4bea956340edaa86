"""What TensorRT says, told to people; progress; and the script for single files."""

import runpy
from pathlib import Path

import click.testing
import pytest

from builder.engines.trt import seam
from builder.engines.trt.convert import parse_shapes
from builder.engines.trt.failures import explain
from builder.engines.trt.gpu import Gpu
from builder.engines.trt.progress import Phases
from builder.engines.trt.timing_cache import timing_cache
from builder.errors import EngineError, UsageError
from builder.record import read_record
from tests.engines.test_networks import network
from tests.plan_builder import H100, FakePlanBuilder, install_gpu

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_tensorrt.py"


@pytest.mark.parametrize(
    ("log", "what", "hint"),
    [
        (
            "Error Code 2: OutOfMemory (no further information)",
            "ran out of memory",
            "workspace_mib",
        ),
        ("[defaultAllocator.cpp] Requested amount ... out of memory", "ran out of memory", "close"),
        ("In node 3 (parseNode): UNSUPPORTED_NODE: No importer", "cannot parse", "lint --tensorrt"),
        ("IRuntime::deserializeCudaEngine: Error Code 1: Serialization", "cannot be read", "again"),
        ("Could not find any implementation for node X", "no kernel", "precision"),
        ("CUDA initialization failure with error: 35", "CUDA does not start", "driver"),
        ("something new", "TensorRT failed: something new", "BUILDER_DEBUG"),
    ],
)
def test_causes(log: str, what: str, hint: str) -> None:
    error = explain("Invalid Engine. Please ensure the engine was built correctly", [log], name="m")
    assert what in error.what
    assert log in error.what
    assert hint in (error.hint or "")


def test_phases_tell_the_outermost_one_and_stop_on_ctrl_c() -> None:
    told: list[tuple[str, int, int]] = []
    phases = Phases(lambda *step: told.append(step))
    phases.start("outer", 2)
    phases.start("inner", 10)
    assert phases.step("inner", 4)
    phases.finish("inner")
    assert phases.step("outer", 0)
    phases.finish("outer")
    assert phases.step("gone", 1)
    assert told == [("outer", 0, 2)] * 4 + [("outer", 1, 2)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    phases = Phases(interrupt)
    phases.start("outer", 2)
    assert phases.interrupted
    assert phases.step("outer", 0) is False


def test_timing_caches_are_per_gpu_and_version() -> None:
    a = Gpu(0, "u", "NVIDIA RTX 2080", "7.5", "580", 1)
    b = Gpu(0, "u", "Tesla T4", "7.5", "580", 1)
    names = {timing_cache(Path("b"), g, v).name for g in (a, b) for v in ("10.8.0", "11.4.0")}
    assert len(names) == 4
    assert all("/" not in name for name in names)


def convert(*arguments: object) -> click.testing.Result:
    main = runpy.run_path(str(SCRIPT))["main"]
    return click.testing.CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import onnx

    onnx.save(network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_script_converts_one_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    plans = FakePlanBuilder()
    output = tmp_path / "out" / "sm90.plan"
    with seam.replaced(plans):
        result = convert(
            *("--onnx", model, "--output", output, "--fp16", "--workspace", 4096),
            *("--profile", "N=1:2:8"),
        )
        assert result.exit_code == 0, result.output
        assert "fp16, TensorRT 11.4.0.106, for NVIDIA H100 PCIe" in result.output
        shapes = ("--minShapes", "x:1x4", "--optShapes", "x:2x4", "--maxShapes", "x:8x4")
        again = convert("--onnx", model, "--output", tmp_path / "b.plan", *shapes)
        assert again.exit_code == 0, again.output
    assert [spec.options.workspace_mib for spec in plans.built] == [4096, 0]
    assert plans.built[0].profiles[0].inputs == plans.built[1].profiles[0].inputs
    record = read_record(output.parent, "sm90.plan.json")
    assert record is not None
    assert record.details["precision"] == "fp16"
    assert sorted(p.name for p in output.parent.iterdir()) == ["sm90.plan", "sm90.plan.json"]


def test_the_script_keeps_the_plan_that_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    output = tmp_path / "sm90.plan"
    output.write_bytes(b"the last good one")
    with seam.replaced(FakePlanBuilder(error=EngineError("the GPU ran out of memory"))):
        result = convert("--onnx", model, "--output", output, "--profile", "N=1:2:8")
    assert (result.exit_code, output.read_bytes()) == (1, b"the last good one")
    assert "ran out of memory" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--profile", "N=1:2:8"), "TensorRT cannot be loaded", 1),
        ((), "no sizes are known for N", 1),
        (("--fp16", "--bf16"), "one precision at a time: --fp16 or --bf16", 2),
        (("--min-shapes", "x:1x4"), "belong together", 2),
        (("--target", "sm80"), "the GPU here is another one", 1),
        (("--target", "sm8"), "unknown target", 2),
        (("--profile", "N=8:2:1"), "not 0 < min <= opt <= max", 2),
        (("--optimization-level", "7"), "optimization_level is not within 0 to 5", 2),
    ],
)
def test_the_script_refuses(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
    code: int,
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    result = convert("--onnx", model, "--output", tmp_path / "x.plan", *arguments)
    assert message in result.output
    assert result.exit_code == code
    assert not (tmp_path / "x.plan").exists()


def test_the_script_needs_a_gpu_and_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch)
    assert "no NVIDIA GPU here" in convert("--onnx", model, "--output", "x.plan").output
    missing = convert("--onnx", tmp_path / "none.onnx", "--output", "x.plan")
    assert (missing.exit_code, "no such file" in missing.output) == (2, True)


def test_shapes_as_trtexec_writes_them() -> None:
    assert parse_shapes("a:1x3x512x512, b:0:7") == {"a": (1, 3, 512, 512), "b:0": (7,)}
    for text in ("a", "a:", "a:1xx2", ":3"):
        with pytest.raises(UsageError, match="is no shape"):
            parse_shapes(text)
