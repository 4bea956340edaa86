"""builder.toml after a search: everything else as it was."""

import os
import tomllib
from pathlib import Path

import pytest

from builder.config import load_config
from builder.errors import ConfigError
from builder.tune.write import changed_text, check_writable, write_settings

FILE = """\
# the fleet in Oslo
[server]
http_port   =   9000     # not 8000, that is taken

[stages."*"]
warmup = false

[stages."dit_step"]   # the transformer
# two of them
instances = 2   # measured by hand
max_queue_delay_us = 100

[tensorrt."*"]
tf32 = true
"""


def test_comments_order_and_spaces_survive() -> None:
    text = changed_text(FILE, {"dit_step": {"instances": 3, "intra_op_threads": 2}}, "x1")
    kept = [line for line in FILE.splitlines() if not line.startswith("instances")]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert "instances = 3   # measured by hand" in text
    assert "intra_op_threads = 2 # builder tune: x1" in text
    assert tomllib.loads(text)["stages"]["dit_step"] == {
        "instances": 3,
        "intra_op_threads": 2,
        "max_queue_delay_us": 100,
    }


def test_the_remark_is_renewed_but_a_users_comment_is_not() -> None:
    once = changed_text(FILE, {"dit_step": {"intra_op_threads": 2}}, "first")
    twice = changed_text(once, {"dit_step": {"intra_op_threads": 4}}, "second")
    assert "first" not in twice
    assert twice.count("builder tune") == 1
    assert "# measured by hand" in twice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "[stages]\n",
        'stages = {"vae_decoder" = {instances = 2}}\n',
        'stages."vae_decoder".instances = 2\n',
        '[stages]\n"vae_decoder" = {instances = 2}\n',
        FILE,
        FILE.replace("\n", "\r\n"),
        FILE.rstrip("\n"),
    ],
)
def test_a_stage_without_table_gets_one(text: str) -> None:
    changed = changed_text(text, {"SMAP_A-1": {"instances": 2, "preferred_batch_sizes": [2, 4]}})
    expected = tomllib.loads(text)
    expected.setdefault("stages", {})["SMAP_A-1"] = {
        "instances": 2,
        "preferred_batch_sizes": [2, 4],
    }
    assert tomllib.loads(changed) == expected
    assert list(tomllib.loads(changed)["stages"])[-1] == "SMAP_A-1"


def test_what_is_written_is_what_the_builder_reads(tmp_path: Path) -> None:
    path = tmp_path / "builder.toml"
    check_writable(path, ["dit_step"])
    settings = {"instances": 2, "dynamic_batching": False, "preferred_batch_sizes": [4]}
    write_settings(path, {"dit_step": settings}, "throughput at 1,8 clients")
    options = load_config(root=tmp_path, environ={}).stage_options("dit_step", {"instances": 7})
    assert (options.instances, options.dynamic_batching) == (2, False)
    assert options.preferred_batch_sizes == (4,)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_the_mode_stays(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(FILE)
    real.chmod(0o600)
    link = tmp_path / "builder.toml"
    link.symlink_to(real)
    write_settings(link, {"dit_step": {"instances": 5}})
    assert link.is_symlink()
    assert "instances = 5" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_pattern_below_would_overrule_it(tmp_path: Path) -> None:
    path = tmp_path / "builder.toml"
    path.write_text('[stages."dit_step"]\ninstances = 1\n[stages."dit_*"]\ninstances = 2\n')
    with pytest.raises(ConfigError, match=r"dit_\*.*comes after"):
        check_writable(path, ["dit_step"])
    with pytest.raises(ConfigError, match="comes after"):
        write_settings(path, {"dit_step": {"instances": 3}})
    check_writable(path, ["vae_decoder"])
    path.write_text('[stages."dit_step"]\ninstances = 1\n[stages."dit_*"]\nwarmup = true\n')
    check_writable(path, ["dit_step"])


@pytest.mark.parametrize("content", [b"[stages", b"\xff\xfe", b'a = "1"\na = "2"\n'])
def test_an_invalid_file_is_named_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "builder.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"builder\.toml"):
        write_settings(path, {"dit_step": {"instances": 3}})
    assert path.read_bytes() == content


@pytest.mark.parametrize("text", ["stages = 3\n", '[stages]\n"dit_step" = 3\n'])
def test_tables_of_the_wrong_kind_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        changed_text(text, {"dit_step": {"instances": 3}})


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "builder.toml"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        check_writable(path, ["dit_step"])
    if os.geteuid() != 0:  # root may write anywhere
        path.rmdir()
        path.write_text("")
        path.chmod(0o400)
        with pytest.raises(ConfigError, match="cannot be written"):
            check_writable(path, ["dit_step"])
