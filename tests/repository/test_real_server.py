"""What is written here, as the real server sees it."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.config import StageOptions
from builder.lint import lint
from builder.pipeline import Pipeline, Step
from builder.repository.ensemble import check_pipeline, ensemble_config
from builder.repository.model_config import config_text, stage_config
from builder.repository.publish import publish
from builder.repository.signature import onnx_signature
from builder.repository.versions import rollback, undo_rollback
from builder.serving import native_build
from builder.serving.backends import prepare_backends
from builder.serving.client import connect, infer
from builder.serving.server import TritonServer
from builder.stage import Tensor

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def backends() -> Path:
    if shutil.which("g++") is None:
        pytest.skip("the native backend needs g++")
    return prepare_backends(ROOT / "build", python=False)


def constant_model(path: Path, value: float) -> Path:
    """y [T] = 0 * x [T] + value; n is the rank-0 number of rows, s passes through."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "zero"], ["none"]),
            helper.make_node("Add", ["none", "value"], ["y"]),
            helper.make_node("Size", ["x"], ["n"]),
            helper.make_node("Identity", ["s"], ["t"]),
        ],
        "constant",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T"]),
            helper.make_tensor_value_info("s", TensorProto.STRING, ["K"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T"]),
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("t", TensorProto.STRING, ["K"]),
        ],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(value), "value"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def batched_model(path: Path) -> Path:
    """total [B] = the sum of x [B,T] over T, plus bias [B]."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "bias"], ["total"]),
        ],
        "batched",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T"]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["B"]),
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def put(
    repository: Path, name: str, path: Path, version: int = 1, *, batch: int = 0,
    metadata: dict[str, str] | None = None, clear_pin: bool = False,
) -> None:  # fmt: skip
    config = stage_config(
        name,
        onnx_signature(path),
        backend="onnxruntime",
        max_batch_size=batch,
        options=StageOptions(),
        metadata=metadata or {},
    )
    publish(
        repository, "onnx", name, version=version, files={"model.onnx": path},
        config=config_text(config), clear_pin=clear_pin,
    )  # fmt: skip


def put_pipeline(repository: Path) -> None:
    """constant -> batched, with the full dims of the batched model."""
    signatures = {
        name: onnx_signature(repository / "onnx" / name / "1" / "model.onnx")
        for name in ("constant", "batched")
    }
    pipeline = Pipeline(
        name="pipe",
        family="test",
        inputs=(
            Tensor("x", "FP32", ("B", "T")),
            Tensor("v", "FP32", ("V",)),
            Tensor("s", "BYTES", ("K",)),
        ),
        outputs=(Tensor("total", "FP32", ("B", 1)), Tensor("n", "INT64", (1,))),
        steps=(
            Step("constant", {"x": "v", "s": "s"}, {"n": "n"}),
            Step("batched", {"x": "x", "bias": "bias"}, {"total": "total"}),
            Step("reshape", {"v": "v"}, {"b": "bias"}),
        ),
        example=lambda rng: {},
        reference=lambda arrays: arrays,
    )
    signatures["reshape"] = onnx_signature(repository / "onnx" / "reshape" / "1" / "model.onnx")
    check_pipeline(pipeline, signatures, {"batched": 8})
    publish(
        repository, "ensemble", "pipe", version=1, files={},
        config=config_text(ensemble_config(pipeline)),
    )  # fmt: skip


def reshape_model(path: Path) -> Path:
    """b [V,1] = v [V]."""
    graph = helper.make_graph(
        [helper.make_node("Unsqueeze", ["v", "axis"], ["b"])],
        "reshape",
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, ["V"])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["V", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`constant` (unbatched, strings, a scalar), `batched`, `reshape`, and `pipe` over them."""
    root = tmp_path / "model_repository"
    put(root, "constant", constant_model(tmp_path / "c.onnx", 0), metadata={"generation": "0"})
    put(root, "batched", batched_model(tmp_path / "b.onnx"), batch=8)
    put(root, "reshape", reshape_model(tmp_path / "r.onnx"))
    put_pipeline(root)
    return root


@pytest.fixture
def server(repository: Path, backends: Path) -> Iterator[TritonServer]:
    groups = [repository / "onnx", repository / "ensemble"]
    with TritonServer(
        groups,
        backend_directory=backends,
        model_control="poll",
        extra_args=native_build.server_args(),
    ) as running:
        yield running


def ask(client: object, length: int = 3) -> dict[str, np.ndarray]:
    x, s = np.ones(length, np.float32), np.array([b"a", b"bc"], object)
    return infer(client, "constant", {"x": x, "s": s})  # type: ignore[arg-type]


def test_configs_load_with_their_warmup_and_serve_every_kind_of_tensor(
    server: TritonServer,
) -> None:
    client = connect(server.grpc_url)
    answer = ask(client, 5)
    assert answer["y"].tolist() == [0] * 5
    assert answer["n"].tolist() == [5]
    assert answer["t"].tolist() == [b"a", b"bc"]
    x, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([[10], [20]])
    got = infer(client, "batched", {"x": x, "bias": bias})
    assert got["total"].tolist() == [[13], [32]]
    served = client.get_model_config("constant").config
    assert served.max_batch_size == 0  # not completed to something else
    assert [list(i.dims) for i in served.input] == [[-1], [-1]]


def test_an_ensemble_of_batched_and_unbatched_models(server: TritonServer) -> None:
    """The mixture that `check_pipeline` lets pass is one that the server serves."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = {"x": x, "v": np.float32([10, 20]), "s": np.array([b"z"], object)}
    answer = infer(connect(server.grpc_url), "pipe", inputs)
    assert answer["total"].tolist() == [[13], [32]]
    assert answer["n"].tolist() == [2]


def wait_for(condition: object, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


def test_a_polling_server_follows_without_a_failed_request(
    server: TritonServer, repository: Path, tmp_path: Path
) -> None:
    client = connect(server.grpc_url)
    stop = threading.Event()
    answers: list[float] = []
    errors: list[str] = []

    def load() -> None:
        own = connect(server.grpc_url)
        while not stop.is_set():
            try:
                answers.append(float(ask(own)["y"][0]))
            except Exception as error:  # every failure counts, whatever it is
                errors.append(str(error))
            time.sleep(0.005)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for generation in range(1, 41):
            path = constant_model(tmp_path / "next.onnx", generation)
            put(repository, "constant", path, metadata={"generation": str(generation)})
            time.sleep(0.1)
        assert wait_for(lambda: answers[-1] == 40)
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(set(answers)) >= 3  # it followed more than once
    assert answers == sorted(answers)
    parameters = client.get_model_config("constant").config.parameters
    assert parameters["generation"].string_value == "40"


def test_a_polling_server_follows_a_rollback_and_its_undo(
    server: TritonServer, repository: Path, tmp_path: Path
) -> None:
    client = connect(server.grpc_url)
    put(repository, "constant", constant_model(tmp_path / "two.onnx", 2), version=2)
    assert wait_for(lambda: ask(client)["y"][0] == 2)
    rollback(repository, "constant")
    assert wait_for(lambda: ask(client)["y"][0] == 0)
    put(repository, "constant", constant_model(tmp_path / "two.onnx", 3), version=2)
    time.sleep(2.5)  # two polls
    assert ask(client)["y"][0] == 0
    undo_rollback(repository, "constant")
    assert wait_for(lambda: ask(client)["y"][0] == 3)


def identity_model(path: Path) -> None:
    """y [T] = x [T]."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


TENSORS = """\
input { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: -1 }
"""
IDENTITY = 'backend: "onnxruntime"\n' + TENSORS

MODELS = {
    "a": IDENTITY,
    "b": IDENTITY,
    "other_name": 'name: "c"\n' + IDENTITY,
    "no_such_field": IDENTITY + "max_batch: 3\n",
    "no_such_input": IDENTITY.replace('"x"', '"z"'),
    "other_type": IDENTITY.replace("FP32", "FP16"),
    "other_rank": IDENTITY.replace("dims: -1", "dims: [ -1, 2 ]"),
    "no_such_file": IDENTITY + 'default_model_filename: "m.onnx"\n',
    "preferred": 'backend: "python"\nmax_batch_size: 4\n'
    "dynamic_batching { preferred_batch_size: 8 }\n",
    "cached": IDENTITY + "sequence_batching {}\nresponse_cache { enable: true }\n",
}

# Ensemble -> (model, tensor in, tensor out) of its steps; raw is sent, answer is returned.
ENSEMBLES = {
    "chain": [("a", "raw", "m"), ("b", "m", "answer")],
    "fork": [("a", "raw", "answer"), ("b", "answer", "second"), ("a", "second", "answer2")],
    "unused_output": [("a", "raw", "answer"), ("b", "raw", "lost")],
    "unused_input": [("a", "raw2", "answer")],
    "unproduced": [("a", "raw", "m"), ("b", "n", "answer")],
    "twice": [("a", "raw", "answer"), ("b", "raw", "answer")],
    "loop": [("a", "raw", "m"), ("b", "p", "q"), ("a", "q", "p"), ("b", "q", "answer")],
    "self": [("a", "raw", "m"), ("b", "answer", "answer")],
    "unknown": [("nobody", "raw", "answer")],
}


def test_the_linter_finds_what_the_server_refuses(tmp_path: Path, backends: Path) -> None:
    """And nothing else: the two verdicts are equal, model by model."""
    root = tmp_path / "model_repository"
    for name, config in MODELS.items():
        folder = root / "onnx" / name / "1"
        folder.mkdir(parents=True)
        identity_model(folder / "model.onnx")
        (folder.parent / "config.pbtxt").write_text(config)
    for name, steps in ENSEMBLES.items():
        folder = root / "ensemble" / name / "1"
        folder.mkdir(parents=True)
        text = 'platform: "ensemble"\n' + TENSORS.replace('"x"', '"raw"').replace('"y"', '"answer"')
        if name == "fork":
            text += 'output { name: "answer2" data_type: TYPE_FP32 dims: -1 }\n'
        text += "ensemble_scheduling {\n"
        for model, given, made in steps:
            text += f'step {{ model_name: "{model}" model_version: -1 '
            text += f'input_map {{ key: "x" value: "{given}" }} '
            text += f'output_map {{ key: "y" value: "{made}" }} }}\n'
        (folder.parent / "config.pbtxt").write_text(text + "}\n")
    (root / "ensemble" / "no_version").mkdir()
    (root / "ensemble" / "no_version" / "config.pbtxt").write_text(
        (root / "ensemble" / "chain" / "config.pbtxt").read_text()
    )
    (root / "onnx" / "empty").mkdir()
    found = {
        part
        for finding in lint([root])
        if finding.severity == "error"
        for part in finding.path.relative_to(root).parts[1:2]
    }
    with TritonServer(
        [root / "onnx", root / "ensemble"],
        backend_directory=backends,
        strict=False,
        response_cache_mib=1,
        extra_args=native_build.server_args(),
    ) as server:
        states = {state.name: state.state for state in server.model_states()}
    every = {*MODELS, *ENSEMBLES, "no_version", "empty"}
    refused = {name for name in every if states.get(name) != "READY"}
    assert refused == every - {"a", "b", "chain", "fork"}
    assert found == refused
