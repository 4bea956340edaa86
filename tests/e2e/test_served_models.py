"""Every native model on the real server, against PyTorch."""

import threading
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from builder.config import Config
from builder.engines.engine import engine_kind
from builder.export.parity import compare_outputs, torch_runner
from builder.families.anomaly.channels import CHANNELS
from builder.families.anomaly.models.detector import OUTPUTS, telemetry_window
from builder.family import Registry
from builder.serving.client import connect, infer
from builder.serving.server import TritonServer
from builder.stage import Arrays, OnnxSource, Stage, Tolerance
from builder.target import CPU

pytestmark = pytest.mark.e2e

DETECTORS = [channel.model for channel in CHANNELS]


@pytest.fixture
def client(server: TritonServer) -> Iterator[InferenceServerClient]:
    connection = connect(server.grpc_url)
    yield connection
    connection.close()


def reference(stage: Stage, inputs: Arrays) -> Arrays:
    if isinstance(stage.source, OnnxSource):
        return stage.source.reference(inputs)
    return torch_runner(stage, _module(stage))(inputs)


@cache
def _loaded(name: str, load: object) -> object:
    return load()  # type: ignore[operator]


def _module(stage: Stage) -> object:
    return _loaded(stage.name, stage.source.load)


def served_names(registry: Registry) -> list[tuple[str, Stage]]:
    return [
        (engine_kind(kind).model_name(stage), stage)
        for stage in registry.stages.values()
        for kind in stage.engines
        if engine_kind(kind).supports(CPU)
    ]


def test_every_model_answers_as_torch_does(
    client: InferenceServerClient, registry: Registry
) -> None:
    rng = np.random.default_rng(7)
    checked = 0
    for name, stage in served_names(registry):
        timed = [{"T": int(rng.integers(2, 300))}, {"T": 1}]
        for shape in timed if stage.symbols == {"T"} else stage.shapes[:2]:
            inputs = stage.example(shape, rng)
            want = reference(stage, inputs)
            got = infer(client, name, inputs)
            assert set(got) == {tensor.name for tensor in stage.outputs}
            compare_outputs(got, want, stage.outputs, stage.tolerance, where=name)
            checked += 1
    assert checked >= 2 * (len(DETECTORS) + 2)


def test_every_pipeline_answers_as_its_reference_does(
    client: InferenceServerClient, registry: Registry
) -> None:
    assert {"anomaly_pipeline", "multi_detector", "flux_schnell"} <= set(registry.pipelines)
    for pipeline in registry.pipelines.values():
        inputs = pipeline.example(np.random.default_rng(11))
        want = pipeline.reference(inputs)
        got = infer(client, pipeline.name, inputs)
        compare_outputs(got, want, pipeline.outputs, pipeline.tolerance, where=pipeline.name)


def test_a_hundred_thousand_samples_are_one_request(
    client: InferenceServerClient, registry: Registry
) -> None:
    stage = registry.stages["SMAP_E-1"]
    inputs = {"input_data": telemetry_window(100_000, np.random.default_rng(3))}
    got = infer(client, stage.name, inputs, timeout=120)
    want = reference(stage, inputs)
    compare_outputs(got, want, stage.outputs, Tolerance(atol=1e-5, rtol=1e-5), where="long")


def test_requests_at_once_never_get_each_others_answers(
    server: TritonServer, registry: Registry
) -> None:
    """Eight clients, random models, random lengths; every answer is compared."""
    rng = np.random.default_rng(5)
    prepared = []
    for _ in range(60):
        stage = registry.stages[DETECTORS[int(rng.integers(len(DETECTORS)))]]
        inputs = {"input_data": telemetry_window(int(rng.integers(1, 200)), rng)}
        prepared.append((stage, inputs, reference(stage, inputs)))
    wrong: list[str] = []
    answered: list[str] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        connection = connect(server.grpc_url)
        for index in order.integers(0, len(prepared), 100):
            stage, inputs, want = prepared[int(index)]
            try:
                got = infer(connection, stage.name, inputs)
                compare_outputs(got, want, OUTPUTS, stage.tolerance, where=stage.name)
                answered.append(stage.name)
            except Exception as error:
                wrong.append(str(error))
        connection.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(answered) == 800


def test_no_python_runs_for_a_native_pipeline(built: Config) -> None:
    """The ONNX and ensemble groups are served with no Python process and no Python backend."""
    from pathlib import Path

    from builder.serving.backends import prepare_backends
    from builder.serving.launch import find_installation
    from builder.serving.native_build import server_args

    folder = built.build_dir / "native-only"
    backends = prepare_backends(folder, python=False)
    assert [path.name for path in backends.iterdir() if path.is_dir()] == ["onnxruntime"]
    native = TritonServer(
        [built.repository / "onnx", built.repository / "ensemble"],
        backend_directory=backends,
        installation=find_installation("embedded"),
        extra_args=server_args(),
    )
    with native:
        connection = connect(native.grpc_url)
        registry = Registry.load(built)
        for name in ("anomaly_pipeline", "multi_detector"):
            pipeline = registry.pipelines[name]
            inputs = pipeline.example(np.random.default_rng(2))
            got = infer(connection, name, inputs)
            tolerance = Tolerance(atol=pipeline.atol)
            want = pipeline.reference(inputs)
            compare_outputs(got, want, pipeline.outputs, tolerance, where=name)
        connection.close()
        children = Path(f"/proc/{native.pid}/task/{native.pid}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
        assert not [command for command in commands if "python" in command]
