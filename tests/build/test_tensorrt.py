"""Plans per compute capability, from the target to the repository, with a stand-in for the GPU."""

import dataclasses
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder.build.action import evaluate
from builder.build.execute import Outcome, execute
from builder.build.plan import expand_targets, make_context, make_plan
from builder.build.stale_plans import stale_plans
from builder.config import Config, load_config
from builder.engines.trt import gpu as gpu_module
from builder.engines.trt import seam
from builder.errors import EngineError, MissingDependencyError, RepositoryError, UsageError
from builder.family import Registry
from builder.lint import lint
from builder.preflight.failures import read_failures
from builder.preflight.plan import read_plan_record
from builder.record import Record, read_record
from builder.repository.model_config import read_config
from builder.repository.plans import plan_table
from builder.stage import Range
from builder.target import CPU, Target
from tests.build.conftest import scale_stage
from tests.plan_builder import A100, H100, FakePlanBuilder, install_gpu

SM90 = "tensorrt double_trt (sm90)"


@pytest.fixture
def plans() -> Iterator[FakePlanBuilder]:
    builder = FakePlanBuilder()
    with seam.replaced(builder):
        yield builder


@pytest.fixture
def h100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(tmp_path / "h100", monkeypatch, H100)


@pytest.fixture
def profiled(registry: Registry) -> Registry:
    stages = {
        name: dataclasses.replace(stage, profile={"T": Range(1, 3, 16)})
        for name, stage in registry.stages.items()
    }
    return Registry(stages, registry.pipelines)


def build(
    config: Config,
    registry: Registry,
    *targets: str,
    names: tuple[str, ...] = (),
    version: int | None = None,
    force: bool = False,
) -> dict[str, Outcome]:
    config = config.replace("build", targets=targets)
    context = make_context(config, registry, version)
    context.force = force
    outcomes = execute(make_plan(context, names), context.digests, force=force)
    return {str(action): outcome for action, outcome in outcomes.items()}


def toml(root: Path, text: str) -> Config:
    (root / "builder.toml").write_text(text)
    return load_config(root=root, environ={})


def folder(config: Config, version: int = 1) -> Path:
    return config.repository / "tensorrt" / "double_trt" / str(version)


@pytest.mark.usefixtures("h100")
def test_a_plan_is_built_proven_recorded_and_published(
    config: Config, profiled: Registry, plans: FakePlanBuilder
) -> None:
    outcomes = build(config, profiled, "sm90")
    assert {str(o.error) for o in outcomes.values() if not o.ok} == set()
    assert sorted(p.name for p in folder(config).iterdir()) == ["sm90.plan", "sm90.plan.json"]
    record = read_record(folder(config), "sm90.plan.json")
    assert record is not None
    assert record.details["tensorrt"] == "11.4.0.106"
    assert record.details["compute_capability"] == "9.0"
    assert (record.details["gpu"], record.details["driver"]) == ("NVIDIA H100 PCIe", "580.65.06")
    assert record.details["precision"] == "fp32"
    assert record.details["profiles"] == [{"x": [[1, 2], [3, 2], [16, 2]]}]
    assert {"STRONGLY_TYPED", "SAME_COMPUTE_CAPABILITY"} <= set(record.details["flags"])
    assert record.measured["parity"]["worst"] == 0.0
    assert len(record.measured["parity"]["shapes"]) == 2
    assert record.measured["latency_ms"]["engine"] == 0.125
    assert record.measured["latency_ms"]["onnxruntime_cpu"] > 0
    told = read_plan_record(folder(config) / "sm90.plan")
    assert told is not None
    assert told.capability == "9.0"
    model = read_config(folder(config).parent / "config.pbtxt")
    assert dict(model.cc_model_filenames) == {"9.0": "sm90.plan"}
    assert model.default_model_filename == ""
    assert (model.backend, model.instance_group[0].Kind.Name(model.instance_group[0].kind)) == (
        "tensorrt",
        "KIND_GPU",
    )
    assert all(plan.closed for plan in plans.loaded)
    groups = [config.repository / g for g in ("onnx", "tensorrt", "ensemble")]
    assert [f for f in lint(groups) if f.severity == "error"] == []


@pytest.mark.usefixtures("h100")
def test_nothing_is_built_twice(config: Config, profiled: Registry, plans: FakePlanBuilder) -> None:
    build(config, profiled, "sm90")
    outcomes = build(config, profiled, "sm90")
    assert {o.status for o in outcomes.values()} == {"current"}
    assert len(plans.built) == 2


@pytest.mark.usefixtures("h100", "plans")
def test_pipelines_get_a_variant_of_the_twins_that_exist(
    config: Config, profiled: Registry
) -> None:
    build(config, profiled, "cpu")
    ensemble = config.repository / "ensemble" / "sixfold"
    assert not (ensemble / "configs").exists()
    outcomes = build(config, profiled, "sm90", names=("double",))
    assert outcomes[SM90].ok
    outcomes = build(config, profiled, "cpu")
    assert outcomes["ensemble sixfold"].reasons == ("twins changed",)

    def steps(path: str) -> set[str]:
        return {s.model_name for s in read_config(ensemble / path).ensemble_scheduling.step}

    assert steps("configs/trt.pbtxt") == {"double_trt", "triple"}
    assert steps("config.pbtxt") == {"double", "triple"}
    build(config, profiled, "sm90")
    assert steps("configs/trt.pbtxt") == {"double_trt", "triple_trt"}
    assert {o.status for o in build(config, profiled, "cpu").values()} == {"current"}


def test_machines_add_their_plans_to_one_config(
    config: Config,
    profiled: Registry,
    plans: FakePlanBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_gpu(tmp_path / "h100", monkeypatch, H100)
    build(config, profiled, "sm90")
    first = (folder(config) / "sm90.plan").read_bytes()
    install_gpu(tmp_path / "a100", monkeypatch, A100)
    build(config, profiled, "sm80")
    table = {"8.0": "sm80.plan", "9.0": "sm90.plan"}
    model = folder(config).parent / "config.pbtxt"
    assert dict(read_config(model).cc_model_filenames) == table
    assert (folder(config) / "sm90.plan").read_bytes() == first
    # Both targets are asked for where only one GPU is: what is there already is no error.
    outcomes = build(config, profiled, "sm80", "sm90")
    assert {o.status for o in outcomes.values()} == {"current"}
    # A new export: the plan of the other machine stays, is served, and is said to be stale.
    (tmp_path / "double.txt").write_text("5")
    outcomes = build(config, profiled, "sm80")
    assert outcomes["tensorrt double_trt (sm80)"].status == "made"
    assert dict(read_config(model).cc_model_filenames) == table
    assert (folder(config) / "sm90.plan").read_bytes() == first
    context = make_context(config.replace("build", targets=("sm80",)), profiled)
    stale = stale_plans(context, make_plan(context))
    assert [(p.model, p.path.name) for p in stale] == [("double_trt", "sm90.plan")]


def publish_many(root: str, target: str, registry_root: str) -> None:
    """One of several builders on a shared folder: publishes again and again."""
    line = f"0, GPU-1, GPU of {target}, {target[2:-1]}.{target[-1]}, 580.1, 81559"
    patch = pytest.MonkeyPatch()
    install_gpu(Path(root) / f"bin-{target}", patch, line)
    stage = scale_stage("double", Path(registry_root) / "double.txt")
    stage = dataclasses.replace(stage, profile={"T": Range(1, 3, 16)})
    registry = Registry({"double": stage}, {})
    environ = {"BUILDER_PATHS_BUILD": f"build-{target}"}
    config = load_config(root=Path(root), environ=environ).replace("build", targets=(target,))
    with seam.replaced(FakePlanBuilder()):
        for _ in range(5):
            context = make_context(config, registry)
            context.force = True
            plan = [a for a in make_plan(context) if a.artefact == "tensorrt"]
            states = evaluate([*plan[0].needs, *plan], context.digests)
            assert states[plan[0].needs[0]].current
            plan[0].make(plan[0].ingredients())
    patch.undo()


def test_builders_at_the_same_time_lose_nothing(
    config: Config, profiled: Registry, tmp_path: Path
) -> None:
    build(config, profiled, "cpu", names=("double",))
    targets = ("sm75", "sm80", "sm86", "sm89", "sm90")
    fork = multiprocessing.get_context("spawn")
    arguments = [(str(tmp_path), target, str(tmp_path)) for target in targets]
    processes = [fork.Process(target=publish_many, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    table = dict(read_config(folder(config).parent / "config.pbtxt").cc_model_filenames)
    assert table == {f"{t[2]}.{t[3]}": f"{t}.plan" for t in targets}
    for target in targets:
        record = read_record(folder(config), f"{target}.plan.json")
        assert record is not None
        assert record.damage(folder(config), make_context(config, profiled).digests) == []


@pytest.mark.usefixtures("h100")
def test_settings_of_the_server_do_not_cost_a_build(
    config: Config, profiled: Registry, plans: FakePlanBuilder, tmp_path: Path
) -> None:
    build(config, profiled, "sm90", names=("double",))
    changed = toml(tmp_path, "[tensorrt.double]\ncuda_graphs = true\ngpus = [0, 1]\n")
    outcomes = build(changed, profiled, "sm90", names=("double",))
    assert outcomes[SM90].reasons == ("serving changed",)
    assert len(plans.built) == 1
    model = read_config(folder(config).parent / "config.pbtxt")
    assert list(model.instance_group[0].gpus) == [0, 1]
    [graph] = model.optimization.cuda.graph_spec
    assert (graph.batch_size, list(graph.input["x"].dim)) == (0, [3, 2])
    assert {o.status for o in build(changed, profiled, "sm90", names=("double",)).values()} == {
        "current"
    }


@pytest.mark.usefixtures("h100")
def test_profiles_and_precision_come_from_the_configuration(
    profiled: Registry, plans: FakePlanBuilder, tmp_path: Path
) -> None:
    config = toml(
        tmp_path,
        '[tensorrt."dou*"]\nprofiles = ["T=1:2:4", "T=4:8:64"]\nprecision = "fp16"\n'
        "optimization_level = 5\nworkspace_mib = 4096\n",
    )
    outcomes = build(config, profiled, "sm90", names=("double",))
    assert outcomes[SM90].error is None
    [spec] = plans.built
    assert [str(p) for p in spec.profiles] == ["T=1:2:4", "T=4:8:64"]
    assert (spec.options.optimization_level, spec.options.workspace_mib) == (5, 4096)
    assert spec.timing_cache == (
        tmp_path / "build/timing-caches/NVIDIA-H100-PCIe-sm90-trt11.4.0.106.cache"
    )
    model = read_config(folder(config).parent / "config.pbtxt")
    assert list(model.instance_group[0].profile) == ["0", "1"]
    record = read_record(folder(config), "sm90.plan.json")
    assert record is not None
    assert record.details["precision"] == "fp16"


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('profiles = ["T=100:200:300"]', "no profile admits the stage's example"),
        ('profiles = ["Q=1:2:3"]', "the profile names Q, which no input has"),
        ('profiles = ["T=3:2:1"]', "not 0 < min <= opt <= max"),
        ('profiles = ["T=many"]', "is no profile range"),
        ('precision = "fp12"', "unknown precision 'fp12'"),
        ('precision = "int8"', "int8 needs nvidia-modelopt"),
        ("optimization_level = 9", "optimization_level is not within 0 to 5"),
        ('hardware_compatibility = "any"', "hardware_compatibility is 'any'"),
    ],
)
def test_settings_that_cannot_be_built(
    profiled: Registry, plans: FakePlanBuilder, tmp_path: Path, settings: str, message: str
) -> None:
    config = toml(tmp_path, f"[tensorrt.double]\n{settings}\n")
    outcomes = build(config, profiled, "sm90", names=("double",))
    assert message in str(outcomes[SM90].error)
    assert plans.built == []
    assert not folder(config).exists()


@pytest.mark.usefixtures("h100")
def test_a_failure_keeps_the_last_good_plan(
    config: Config, profiled: Registry, plans: FakePlanBuilder, tmp_path: Path
) -> None:
    build(config, profiled, "sm90", names=("double",))
    before = {p.name: p.read_bytes() for p in folder(config).iterdir()}
    (tmp_path / "double.txt").write_text("7")
    for error in (EngineError("the GPU ran out of memory"), RuntimeError("boom")):
        plans.error = error
        outcome = build(config, profiled, "sm90", names=("double",))[SM90]
        assert outcome.status == "failed"
        assert {p.name: p.read_bytes() for p in folder(config).iterdir()} == before
    plans.error = EngineError("the GPU ran out of memory")
    build(config, profiled, "sm90", names=("double",))
    failures = read_failures(config.build_dir)
    assert "memory" in failures["double_trt", "sm90"].reason
    plans.error, plans.offset = None, 0.5
    outcome = build(config, profiled, "sm90", names=("double",))[SM90]
    assert "differs by up to 0.5" in str(outcome.error)
    assert {p.name: p.read_bytes() for p in folder(config).iterdir()} == before
    plans.offset = 0.0
    assert build(config, profiled, "sm90", names=("double",))[SM90].status == "made"
    assert read_failures(config.build_dir) == {}
    assert list((tmp_path / "build").glob("plan-*")) == []


@pytest.mark.usefixtures("h100")
def test_a_plan_replaced_by_garbage_is_built_again(
    config: Config, profiled: Registry, plans: FakePlanBuilder
) -> None:
    build(config, profiled, "sm90", names=("double",))
    (folder(config) / "sm90.plan").write_bytes(b"garbage")
    outcome = build(config, profiled, "sm90", names=("double",))[SM90]
    assert outcome.reasons == ("sm90.plan was modified",)
    assert len(plans.built) == 2
    (folder(config) / "sm90.plan.json").write_text("{")
    outcome = build(config, profiled, "sm90", names=("double",))[SM90]
    assert outcome.reasons == ("not built yet",)


@pytest.mark.usefixtures("h100", "plans")
def test_another_gpu_is_refused_and_the_rest_is_built(config: Config, profiled: Registry) -> None:
    outcomes = build(config, profiled, "sm80")
    error = outcomes["tensorrt double_trt (sm80)"].error
    assert isinstance(error, EngineError)
    assert "the GPU here is another one: NVIDIA H100 PCIe (compute capability 9.0)" in str(error)
    assert outcomes["onnxruntime double"].ok
    assert outcomes["ensemble sixfold"].ok  # it waits for the plans, but does not need them


@pytest.mark.usefixtures("plans")
def test_no_gpu_at_all(
    config: Config, profiled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "broken", monkeypatch, "No devices were found")
    error = build(config, profiled, "sm90")[SM90].error
    assert "there is no NVIDIA GPU here" in str(error)
    assert "--target sm90" in str(error)


@pytest.mark.usefixtures("h100")
def test_tensorrt_missing_or_too_old(config: Config, profiled: Registry) -> None:
    error = build(config, profiled, "sm90")[SM90].error
    assert isinstance(error, MissingDependencyError)
    assert "EXTRAS=gpu" in str(error)
    with pytest.raises(MissingDependencyError, match=r"10\.3\.0 is too old, 10\.8 or newer"):
        gpu_module.check_version("10.3.0")
    assert gpu_module.check_version("10.8.0.43") == "10.8.0.43"


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expand_targets(("sm90", "cpu", "sm90")) == (CPU, Target("sm90"))
    with pytest.raises(UsageError, match="unknown target 'sm91'"):
        expand_targets(("sm91",))
    install_gpu(tmp_path / "both", monkeypatch, H100, A100.replace("0,", "1,", 1))
    assert expand_targets(("auto",)) == (CPU,)  # TensorRT is not installed
    monkeypatch.setattr("builder.build.plan.tensorrt_version", lambda: "11.4.0.106")
    assert expand_targets(("auto",)) == (CPU, Target("sm90"), Target("sm80"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert expand_targets(("auto",)) == (CPU, Target("sm80"))
    assert gpu_module.gpu_for(Target("sm80")).ordinal == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1111")
    assert gpu_module.gpu_for(Target("sm90")).name == "NVIDIA H100 PCIe"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert expand_targets(("auto",)) == (CPU,)


def write_plan(model: Path, name: str, capability: str | None = None) -> None:
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1" / name).write_bytes(b"plan")
    if capability is not None:
        record = Record("tensorrt", model.name, {}, details={"compute_capability": capability})
        (model / "1" / f"{name}.json").write_bytes(record.to_bytes())


def test_the_table_of_plans(tmp_path: Path) -> None:
    write_plan(tmp_path, "sm120.plan")
    write_plan(tmp_path, "h100.plan", "9.0")
    write_plan(tmp_path, "unknown.plan")
    assert plan_table(tmp_path) == {"9.0": "h100.plan", "12.0": "sm120.plan"}
    write_plan(tmp_path, "sm90.plan")
    with pytest.raises(RepositoryError, match=r"h100\.plan and sm90\.plan are both for"):
        plan_table(tmp_path)


@pytest.mark.parametrize("name", ["..\\x.plan", "a b.plan", "-x.plan"])
def test_plan_names_with_separators_and_the_like(tmp_path: Path, name: str) -> None:
    write_plan(tmp_path, name, "9.0")
    with pytest.raises(RepositoryError, match="plan name"):
        plan_table(tmp_path)


@pytest.mark.usefixtures("h100", "plans")
def test_a_model_plan_is_never_served_silently(config: Config, profiled: Registry) -> None:
    build(config, profiled, "sm90", names=("double",))
    text = (folder(config).parent / "config.pbtxt").read_text()
    (folder(config) / "model.plan").write_bytes(b"any")
    outcome = build(config, profiled, "sm90", names=("double",), force=True)[SM90]
    assert "Triton would load this one silently" in str(outcome.error)
    assert (folder(config).parent / "config.pbtxt").read_text() == text


@pytest.mark.usefixtures("h100", "plans")
def test_a_new_version_beside_the_old_one(config: Config, profiled: Registry) -> None:
    build(config, profiled, "sm90", names=("double",))
    build(config, profiled, "sm90", names=("double",), version=2)
    assert (folder(config, 1) / "sm90.plan").is_file()
    assert (folder(config, 2) / "sm90.plan").is_file()
    model = read_config(folder(config).parent / "config.pbtxt")
    assert dict(model.cc_model_filenames) == {"9.0": "sm90.plan"}


@pytest.mark.usefixtures("plans", "h100")
def test_networks_with_mixed_types_are_refused(
    config: Config, profiled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.engines.trt.checks import mixed_types

    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "half"], ["y"], name="sum")],
        "mixed",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["T", 2])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["T", 2])],
        [onnx.numpy_helper.from_array(np.float16([1, 2]), "half")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert mixed_types(model) == ["Add sum (x FLOAT, half FLOAT16, y FLOAT)"]

    def convert(source: Path, target: Path, *_: object) -> Path:
        onnx.save(model, str(target))
        return target

    monkeypatch.setattr("builder.engines.tensorrt.convert", convert)
    error = build(config, profiled, "sm90", names=("double",))[SM90].error
    assert "operators with inputs of several types: Add sum" in str(error)


@pytest.mark.usefixtures("h100")
def test_status_says_what_is_missing(
    config: Config, profiled: Registry, plans: FakePlanBuilder
) -> None:
    context = make_context(config.replace("build", targets=("sm90",)), profiled)
    states = evaluate(make_plan(context), context.digests)
    found = {str(a): s.reasons for a, s in states.items() if a.target}
    assert found == {SM90: ("not built yet",), SM90.replace("double", "triple"): ("not built yet",)}
    assert plans.built == []
