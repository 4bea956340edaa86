"""Every TensorRT and polygraphy name that the code uses exists in the genuine bindings.

That proves names and signatures. It proves neither that a plan is built nor that it runs: only a
GPU does.
"""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import builder.engines.trt
from tests.engines.genuine_tensorrt import PACKAGES, run_with

SOURCES = sorted(Path(builder.engines.trt.__file__).parent.glob("*.py"))

EXIST = """
import json, sys
import tensorrt as trt
missing = []
for name in json.loads(sys.argv[1]):
    value = trt
    for part in name.split("."):
        value = getattr(value, part, None)
        if value is None:
            missing.append(name)
            break
print(json.dumps([trt.__version__, missing]))
"""

# The objects that TensorRT would make are mocks with exactly the attributes of the genuine
# classes: reading, setting or calling anything else fails. polygraphy's own code runs unchanged.
BUILD = """
import json, sys
from pathlib import Path
from unittest import mock
import tensorrt as trt
from builder.engines.trt import nvidia
from builder.engines.trt.gpu import Gpu
from builder.engines.trt.options import TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile
from builder.engines.trt.progress import Phases, make_monitor
from builder.engines.trt.seam import PlanSpec

def genuine(cls):
    return mock.create_autospec(cls, instance=True, spec_set=True)

config, network, parser = map(genuine, (trt.IBuilderConfig, trt.INetworkDefinition, trt.OnnxParser))
builder, profile, tensor = map(genuine, (trt.Builder, trt.IOptimizationProfile, trt.ITensor))
cache, plan = genuine(trt.ITimingCache), b"a plan"
tensor.name, tensor.shape, tensor.is_shape_tensor = "x", (-1, 25), False
tensor.dtype = trt.float32
network.num_inputs, network.num_outputs, network.num_layers = 1, 0, 0
network.get_input.return_value = tensor
network.__getitem__.side_effect = IndexError  # it has no layers
parser.parse_from_file.return_value, parser.num_errors = True, 0
builder.create_network.return_value = network
builder.create_builder_config.return_value = config
builder.create_optimization_profile.return_value = profile
builder.build_serialized_network.return_value = plan
profile.__bool__ = mock.Mock(return_value=True)
profile.get_shape.return_value = ((1, 25), (100, 25), (4096, 25))
config.flags, config.num_optimization_profiles = 0, 1
config.engine_capability = trt.EngineCapability.STANDARD
if hasattr(config, "int8_calibrator"):  # TensorRT 10 still has one; none is its default
    config.int8_calibrator = None
config.create_timing_cache.return_value = config.get_timing_cache.return_value = cache
buffer = mock.MagicMock()
buffer.__enter__ = mock.Mock(return_value=b"times")
cache.serialize.return_value = buffer

folder = Path(sys.argv[1])
shapes = {"x": ((1, 25), (100, 25), (4096, 25))}
told = []
phases = Phases(lambda *step: told.append(step))
options = TensorRTOptions(workspace_mib=4096, version_compatible=True, tf32=True)
gpu = Gpu(0, "GPU-1", "NVIDIA H100", "9.0", "580", 81559)
spec = PlanSpec(gpu=gpu, profiles=(ShapeProfile({}, shapes),), options=options,
                timing_cache=folder / "caches" / "times.cache")
monitor = make_monitor(phases)
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("Building engine", None, 2)
assert monitor.step_complete("Building engine", 0) is True
monitor.phase_finish("Building engine")
with mock.patch.object(trt, "Builder", return_value=builder), \\
     mock.patch.object(trt, "OnnxParser", return_value=parser), \\
     mock.patch.object(trt, "init_libnvinfer_plugins"), \\
     mock.patch("polygraphy.backend.trt.util.str_from_config", return_value=""), \\
     nvidia.tensorrt_log() as log:
    assert nvidia.build_plan(Path("model.onnx"), spec, monitor) == plan
    assert (folder / "caches" / "times.cache").read_bytes() == b"times"
    assert nvidia.build_plan(Path("model.onnx"), spec, monitor) == plan  # with the cache
strongly_typed = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
print(json.dumps({
    "told": told,
    "log": log,
    "strongly_typed": builder.create_network.call_args.kwargs["flags"] >> strongly_typed & 1 == 1,
    "set": sorted(c.args[0].name for c in config.set_flag.call_args_list),
    "level": config.hardware_compatibility_level.name,
    "optimization": config.builder_optimization_level,
    "monitor": config.progress_monitor is monitor,
    "workspace": [c.args[1] for c in config.set_memory_pool_limit.call_args_list],
    "shape": list(profile.set_shape.call_args.args),
    "version": nvidia.NvidiaPlanBuilder().version(),
}))
"""


def tensorrt_names(tree: ast.AST) -> set[str]:
    """Dotted names below `trt`, for example `BuilderFlag.STRICT_NANS`."""
    names = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == "trt":
            names.add(".".join(reversed(parts)))
    return names


def polygraphy_imports(tree: ast.AST) -> list[tuple[str, str]]:
    return [
        (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polygraphy")
        for alias in node.names
    ]


def trees() -> list[ast.AST]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]


@pytest.mark.parametrize("major", PACKAGES)
def test_tensorrt_names_exist(major: str) -> None:
    names = sorted(set().union(*map(tensorrt_names, trees())))
    assert {"BuilderFlag.STRICT_NANS", "IProgressMonitor", "MemoryPoolType.WORKSPACE"} <= set(names)
    # Chosen by name at run time.
    names += [
        f"HardwareCompatibilityLevel.{level}"
        for level in ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
    ]
    version, missing = json.loads(run_with(major, EXIST, json.dumps(names)))
    assert version == PACKAGES[major].partition("==")[2]
    assert missing == []


def test_a_name_that_does_not_exist_is_found() -> None:
    [_, missing] = json.loads(run_with("11", EXIST, json.dumps(["BuilderFlag.FP16", "Builder"])))
    assert missing == ["BuilderFlag.FP16"]


@pytest.mark.parametrize("major", PACKAGES)
def test_a_build_uses_only_what_the_genuine_classes_have(major: str, tmp_path: Path) -> None:
    found: dict[str, Any] = json.loads(run_with(major, BUILD, str(tmp_path)).splitlines()[-1])
    assert found["told"] == [["Building engine", 0, 2], ["Building engine", 1, 2]]
    assert found["log"] == []
    assert found["strongly_typed"]
    assert {"STRICT_NANS", "TF32", "VERSION_COMPATIBLE"} == set(found["set"])
    assert found["level"] == "SAME_COMPUTE_CAPABILITY"
    assert (found["optimization"], found["monitor"]) == (3, True)
    assert found["workspace"][0] == 4096 << 20
    assert found["shape"] == ["x", [1, 25], [100, 25], [4096, 25]]
    assert found["version"] == PACKAGES[major].partition("==")[2]


def test_polygraphy_names_and_arguments_exist() -> None:
    import importlib

    imports = [pair for tree in trees() for pair in polygraphy_imports(tree)]
    assert ("polygraphy.backend.trt", "network_from_onnx_path") in imports
    found = {name: getattr(importlib.import_module(module), name) for module, name in imports}
    checked = 0
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                target = found.get(node.func.id)
                if target is None or not callable(target):
                    continue
                keywords = [k.arg for k in node.keywords if k.arg]
                known = parameters(target)
                assert set(keywords) <= known, (node.func.id, set(keywords) - known)
                checked += len(keywords)
    assert checked >= 10


def test_the_runner_has_what_is_called_on_it() -> None:
    from polygraphy.backend.trt import TrtRunner
    from polygraphy.cuda.cuda import Cuda
    from polygraphy.logger import G_LOGGER

    source = next(p for p in SOURCES if p.name == "nvidia.py").read_text(encoding="utf-8")
    called = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_runner"
    }
    assert called == {"activate", "set_profile", "infer", "deactivate"}
    assert all(callable(getattr(TrtRunner, name)) for name in called)
    assert "handle" in inspect.getsource(Cuda.__init__)  # the library that holds cudaSetDevice
    assert isinstance(G_LOGGER.use_python_logging_system, bool)


def parameters(target: Any) -> set[str]:
    """Parameter names; of a class, those of its whole line of constructors."""
    if inspect.isclass(target):
        return {p for c in target.__mro__ for p in inspect.signature(c.__init__).parameters}
    return set(inspect.signature(target).parameters)
