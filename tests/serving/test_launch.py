import dataclasses
import shutil
from pathlib import Path

import pytest
from torchscript_models import LINEAR, NAMED, write_model

from builder.config import Config, load_config
from builder.errors import ConfigError, UsageError
from builder.family import Registry
from builder.serving.installations import PYTHON_STUB, Installation, find_embedded
from builder.serving.launch import backend_directory, make_server, select


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A project with a model in each group; `named` and `by_hand` say their family."""
    repository = tmp_path / "model_repository"
    stage = next(iter(Registry.load(load_config(root=tmp_path, environ={})).stages))
    write_model(repository / "pytorch" / "linear", LINEAR)
    write_model(repository / "pytorch" / "named", NAMED)
    write_model(repository / "onnx" / stage, LINEAR)
    write_model(repository / "tensorrt" / f"{stage}_trt", LINEAR)
    write_model(repository / "python" / "by_hand", NAMED)
    write_model(repository / "python" / "of_another", NAMED.replace("anomaly", "other"))
    (repository / "ensemble").mkdir()
    (repository / "onnx" / ".staging").mkdir()
    return load_config(root=tmp_path, environ={})


@pytest.fixture
def embedded() -> Installation:
    found = find_embedded()
    assert found is not None
    return found


def test_native_groups_that_exist(config: Config, embedded: Installation) -> None:
    chosen = select(config, embedded)
    assert list(chosen.groups) == ["onnx", "pytorch"]
    assert chosen.groups["pytorch"] == ("linear", "named")
    assert chosen.load is None
    assert "no tensorrt backend" in chosen.skipped["tensorrt"]
    assert list(select(config, embedded, python=True).groups) == ["onnx", "pytorch", "python"]


def test_one_family_with_its_twins(config: Config, embedded: Installation) -> None:
    chosen = select(config, embedded, python=True, family="anomaly")
    assert set(chosen.load or ()) == {*chosen.groups["onnx"], "named", "by_hand"}
    assert "linear" not in chosen.names
    container = dataclasses.replace(embedded, kind="container", image="image:1")
    assert len(select(config, container, family="anomaly").groups["tensorrt"]) == 1
    with pytest.raises(UsageError, match="unknown family 'nope'"):
        select(config, embedded, family="nope")


def test_models_by_name_and_pattern(config: Config, embedded: Installation) -> None:
    assert select(config, embedded, models=["lin*", "named"]).load == ("linear", "named")
    with pytest.raises(UsageError, match="did you mean linear"):
        select(config, embedded, models=["linaer"])
    with pytest.raises(UsageError, match="--with-python"):
        select(config, embedded, models=["by_hand"])


def test_a_twin_brings_the_models_that_it_calls(config: Config, embedded: Installation) -> None:
    calls = 'parameters { key: "calls" value { string_value: "by_hand, of_another" } }'
    write_model(config.repository / "python" / "caller", f"{NAMED}\n{calls}")
    chosen = select(config, embedded, python=True, models=["caller"])
    assert set(chosen.load or ()) == {"caller", "by_hand", "of_another"}


def test_an_empty_repository_says_what_to_do(tmp_path: Path, embedded: Installation) -> None:
    with pytest.raises(UsageError, match="run builder build first"):
        select(load_config(root=tmp_path, environ={}), embedded)


def test_polling_takes_no_list(config: Config) -> None:
    with pytest.raises(ConfigError, match="--poll"):
        make_server(config, poll=True, models=["linear"])


def test_the_server_gets_the_settings(config: Config) -> None:
    shutil.rmtree(config.repository / "onnx")  # it would have the native backend compiled
    config = config.replace(
        "server", server="embedded", http_port=9000, metrics_port=0, timeout=7.0
    )
    server, _ = make_server(config, models=["linear"], model_config_name="trt")
    assert (server.load, server.timeout, server.model_config_name) == (("linear",), 7.0, "trt")
    assert server._wanted_ports == {"http": 9000, "grpc": 8001, "metrics": None}
    server, _ = make_server(config.replace("server", metrics_port=1), free_ports=True)
    assert server._wanted_ports == {"http": 0, "grpc": 0, "metrics": 0}


def test_a_native_server_keeps_its_backends_and_gets_what_it_lacks(
    config: Config, tmp_path: Path, embedded: Installation
) -> None:
    own = tmp_path / "opt" / "backends"
    for name in ("onnxruntime", "python", "tensorrt"):
        (own / name).mkdir(parents=True)
        (own / name / f"libtriton_{name}.so").touch()
    stub = own / "python" / PYTHON_STUB
    stub.touch()
    native = Installation(kind="native", program=own / "tritonserver", backends=own)
    assert backend_directory(config, native, ["onnx", "python"]) == own
    made = backend_directory(config, native, ["onnx", "pytorch"])
    assert made == config.build_dir / "backends"
    assert (made / "onnxruntime").resolve() == own / "onnxruntime"
    assert (made / "tensorrt").is_symlink()
    assert (made / "pytorch" / "model.py").is_file()
    assert (made / "python").is_symlink()
    # A python backend without its stub is none.
    stub.unlink()
    made = backend_directory(config, native, ["onnx", "python"])
    assert made is not None
    assert not (made / "python").is_symlink()
    assert (made / "python" / PYTHON_STUB).is_file()
    # Back with the embedded server, nothing of the other one is left.
    made = backend_directory(config, embedded, ["pytorch"])
    assert made is not None
    assert sorted(p.name for p in made.iterdir()) == ["python", "pytorch"]
    assert not (made / "python").is_symlink()
    container = dataclasses.replace(embedded, kind="container", image="image:1")
    assert backend_directory(config, container, ["onnx"]) is None
