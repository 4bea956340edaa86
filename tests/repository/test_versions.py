import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from builder.cli import rollback as rollback_cli
from builder.cli import versions as versions_cli
from builder.config import load_config
from builder.errors import RepositoryError
from builder.repository.publish import publish, published
from builder.repository.versions import (
    find_model,
    list_versions,
    pinned_version,
    rollback,
    served_versions,
    undo_rollback,
)

CONFIG = """\
name: "m"  # the model
backend: "onnxruntime"
version_policy: { latest { num_versions: 2 } }
# the end
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three versions of one model and an ensemble."""
    root = tmp_path / "model_repository"
    for version in (1, 2, 10):
        build(root, version)
    publish(root, "ensemble", "p", version=1, files={}, config='name: "p"\nplatform: "ensemble"\n')
    return root


def build(repository: Path, version: int, *, clear_pin: bool = False, config: str = CONFIG) -> None:
    publish(
        repository, "onnx", "m", version=version, files={"model.onnx": bytes(version)},
        config=config, clear_pin=clear_pin,
    )  # fmt: skip


def config_of(repository: Path) -> ModelConfig:
    text = (repository / "onnx" / "m" / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


def pinned_to(repository: Path) -> list[int]:
    return list(config_of(repository).version_policy.specific.versions)


def test_rollback_pins_the_newest_older_version_and_deletes_nothing(repository: Path) -> None:
    assert served_versions(find_model(repository, "m")) == (2, 10)
    assert rollback(repository, "m") == 2
    assert pinned_to(repository) == [2]
    assert rollback(repository, "m") == 1
    assert pinned_to(repository) == [1]
    model = find_model(repository, "m")
    assert model.versions == (1, 2, 10)
    assert served_versions(model) == (1,)


def test_the_rest_of_a_config_stays_as_it_was_written(repository: Path) -> None:
    rollback(repository, "m", to=1)
    text = (repository / "onnx" / "m" / "config.pbtxt").read_text()
    assert text.startswith('name: "m"  # the model\nbackend: "onnxruntime"\n')
    assert text.endswith("# the end\n")


def test_undo_restores_the_policy(repository: Path) -> None:
    rollback(repository, "m", to=1)
    rollback(repository, "m", to=2)
    assert undo_rollback(repository, "m") == (2, 10)
    assert config_of(repository) == text_format.Parse(CONFIG, ModelConfig())
    assert pinned_version(repository / "onnx" / "m") is None
    with pytest.raises(RepositoryError, match="no version is pinned"):
        undo_rollback(repository, "m")


def test_a_rebuild_keeps_the_pin_and_undo_gives_the_new_policy(repository: Path) -> None:
    rollback(repository, "m", to=1)
    build(repository, 10, config=CONFIG.replace("num_versions: 2", "num_versions: 1"))
    assert pinned_to(repository) == [1]
    assert pinned_version(repository / "onnx" / "m") == 1
    assert undo_rollback(repository, "m") == (10,)


def test_building_a_new_version_clears_the_pin(repository: Path) -> None:
    rollback(repository, "m", to=1)
    build(repository, 11, clear_pin=True)
    assert served_versions(find_model(repository, "m")) == (10, 11)
    assert pinned_version(repository / "onnx" / "m") is None


def test_alternative_configs_are_pinned_and_restored(repository: Path) -> None:
    publish(
        repository, "onnx", "m", version=None, files={}, config=CONFIG,
        extra={"configs/other.pbtxt": b'name: "m"\n'},
    )  # fmt: skip
    path = repository / "onnx" / "m" / "configs" / "other.pbtxt"
    rollback(repository, "m", to=2)
    pinned = text_format.Parse(path.read_text(), ModelConfig())
    assert list(pinned.version_policy.specific.versions) == [2]
    undo_rollback(repository, "m")
    restored = text_format.Parse(path.read_text(), ModelConfig())
    assert restored.version_policy.latest.num_versions == 1


def test_no_older_version_names_what_there_is(repository: Path) -> None:
    with pytest.raises(RepositoryError, match=r"older than 1 \(available: 1\)") as caught:
        rollback(repository, "p")
    assert "--as-version" in (caught.value.hint or "")
    rollback(repository, "m", to=1)
    with pytest.raises(RepositoryError, match=r"older than 1 \(available: 1, 2, 10\)"):
        rollback(repository, "m")


def test_an_unknown_version_or_model_is_refused(repository: Path) -> None:
    with pytest.raises(RepositoryError, match="no version 7") as caught:
        rollback(repository, "m", to=7)
    assert caught.value.hint == "available: 1, 2, 10"
    with pytest.raises(RepositoryError, match=r"did you mean m\?"):
        rollback(repository, "mm")


def test_a_name_in_two_groups_must_be_qualified(repository: Path) -> None:
    publish(repository, "pytorch", "m", version=1, files={}, config=CONFIG)
    with pytest.raises(RepositoryError, match="onnx/m, pytorch/m"):
        find_model(repository, "m")
    assert rollback(repository, "onnx/m", to=1) == 1
    assert {(m.group, m.pinned) for m in published(repository)} >= {("onnx", 1), ("pytorch", None)}


def test_versions_are_listed_newest_first(repository: Path) -> None:
    rollback(repository, "m", to=2)
    infos = list_versions(find_model(repository, "m"))
    assert [(i.version, i.served, i.pinned, i.size) for i in infos] == [
        (10, False, False, 10),
        (2, True, True, 2),
        (1, False, False, 1),
    ]


def run(repository: Path, command: object, *words: str) -> Result:
    config = load_config(root=repository.parent, environ={})
    return CliRunner().invoke(command, words, obj=config, catch_exceptions=False)  # type: ignore[arg-type]


def test_the_commands(repository: Path) -> None:
    assert "pinned to version 2" in run(repository, rollback_cli.command, "m").output
    value = json.loads(run(repository, versions_cli.command, "m", "--json").output)
    assert value["pinned"] == 2
    assert [v["version"] for v in value["versions"]] == [10, 2, 1]
    lines = run(repository, versions_cli.command, "onnx/m").output.splitlines()
    assert [line.split()[0] for line in lines] == ["10", "2", "1"]
    assert lines[1].endswith("pinned")
    assert "2, 10 again" in run(repository, rollback_cli.command, "m", "--undo").output
