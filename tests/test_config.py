import re
from pathlib import Path

import pytest

from builder.config import Config, StageOptions, load_config
from builder.errors import ConfigError
from builder.families.anomaly.options import AnomalyOptions


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "builder.toml"
    file.write_text(text)
    return load_config(file, environ=environ)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    config = load_config(root=tmp_path, environ={})
    assert config.server.host == "127.0.0.1"
    assert config.repository == tmp_path / "model_repository"
    assert config.build.targets == ("auto",)


def test_the_environment_beats_the_file_and_flags_beat_both(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\nhttp_port = 1\ngrpc_port = 2", BUILDER_SERVER_HTTP_PORT="3")
    assert (config.server.http_port, config.server.grpc_port) == (3, 2)
    assert config.replace("server", http_port=4, grpc_port=None).server.http_port == 4
    assert config.replace("server", http_port=4, grpc_port=None).server.grpc_port == 2


def test_every_type_is_read_from_the_environment(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "",
        BUILDER_BUILD_TARGETS="cpu,sm90",
        BUILDER_PATHS_EXPORTS="/elsewhere",
        BUILDER_SERVER_TIMEOUT="1.5",
        BUILDER_ANOMALY_TRANAD_CHECKPOINT="",
    )
    assert config.build.targets == ("cpu", "sm90")
    assert config.exports == Path("/elsewhere")
    assert config.server.timeout == 1.5
    assert config.section("anomaly", AnomalyOptions).tranad_checkpoint is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nhttp_prot = 1", "unknown setting 'http_prot'.*did you mean http_port"),
        ("[server]\nhttp_port = 'x'", r"\[server\] http_port: expected int, got 'x'"),
        ("[server]\nhttp_port = true", "expected int, got True"),
        ("[build]\ntargets = 'cpu'", "expected a list"),
        ("server = 3", "must be a table"),
        ("[server", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert re.search(message, str(error.value), re.DOTALL)
    assert error.value.exit_code == 2


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BUILDER_SERVER_GRPC_PORT"):
        load(tmp_path, "", BUILDER_SERVER_GRPC_PORT="eighty")


def test_a_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.toml", environ={})


def test_stage_patterns_apply_in_order(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[stages."*"]\ninstances = 2\n[stages."SMAP_*"]\nwarmup = false\n'
        '[stages."SMAP_E-1"]\ninstances = 3\ndynamic_batching = true',
    )
    assert config.stage_options("SMAP_E-1") == StageOptions(
        instances=3, warmup=False, dynamic_batching=True
    )
    assert config.stage_options("SMAP_E-2") == StageOptions(instances=2, warmup=False)
    assert config.stage_options("tranad_sat1") == StageOptions(instances=2)


def test_an_unknown_stage_setting_names_its_stage(tmp_path: Path) -> None:
    config = load(tmp_path, "[stages.x]\ninstance = 2")
    with pytest.raises(ConfigError, match=r"stages\.x.*instance"):
        config.stage_options("x")
