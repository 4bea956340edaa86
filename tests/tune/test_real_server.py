"""Candidates on the real server, judged by the real perf_analyzer."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.bench.tool import PerfAnalyzer, find_perf_analyzer
from builder.cli.tune import command
from builder.config import Config, PathOptions, StageOptions, load_config
from builder.errors import MissingDependencyError
from builder.family import Registry
from builder.repository.model_config import read_config
from builder.tune.arena import Arena
from builder.tune.candidate import candidate_config
from builder.tune.search import CandidateError
from builder.tune.subject import find_subject

ROOT = Path(__file__).parents[2]
SECONDS = 0.4


@pytest.fixture(scope="module")
def perf_analyzer() -> PerfAnalyzer:
    """The real one, unpacked into the project's own build folder; skips where it cannot be had."""
    try:
        return find_perf_analyzer(load_config(root=ROOT, environ={}))
    except MissingDependencyError as error:
        pytest.skip(f"no perf_analyzer here: {error}")


@pytest.fixture(scope="module")
def registry(built: Config) -> Registry:
    return Registry.load(built)


def options_of(config: Config, registry: Registry, pipeline: str) -> dict[str, StageOptions]:
    stages = {
        step.model: registry.stages[step.model] for step in registry.pipelines[pipeline].steps
    }
    return {name: config.stage_options(name, stage.serving) for name, stage in stages.items()}


@pytest.fixture(scope="module")
def arena(built: Config, registry: Registry, perf_analyzer: PerfAnalyzer) -> Iterator[Arena]:
    """A server with `flux_schnell`."""
    subject = find_subject(built, registry, "flux_schnell")
    with Arena(built, subject, perf_analyzer, (1, 4)) as running:
        yield running


def test_the_current_settings_give_what_is_published(built: Config, registry: Registry) -> None:
    compared = 0
    for stage in registry.stages.values():
        path = built.repository / "onnx" / stage.name / "config.pbtxt"
        if path.is_file():
            options = built.stage_options(stage.name, stage.serving)
            assert candidate_config(built, stage, options) == read_config(path), stage.name
            compared += 1
    assert compared > 30


def test_a_stage_of_a_pipeline_is_measured_with_its_settings(
    arena: Arena, built: Config, registry: Registry
) -> None:
    settings = options_of(built, registry, "flux_schnell")
    turn = arena.turn(settings, SECONDS)
    assert set(turn) == {1, 4}
    assert all(figures.per_second > 0 and figures.p99_ms > 0 for figures in turn.values())
    assert sum(arena.shares.values()) == pytest.approx(1)
    assert max(arena.shares, key=lambda name: arena.shares[name]) == "dit_step"
    changed = dataclasses.replace(settings["dit_step"], instances=2, max_queue_delay_us=50_000)
    slower = arena.turn({**settings, "dit_step": changed}, SECONDS)
    # Four steps, each of which waits for company that does not come: its delay is in force.
    assert slower[1].p50_ms > 4 * 50
    served = arena._server.client.get_model_config("dit_step").config
    assert served.instance_group[0].count == 2
    assert served.parameters["intra_op_thread_count"].string_value == "1"
    path = built.repository / "onnx" / "dit_step" / "config.pbtxt"
    assert read_config(path).instance_group[0].count == 1  # nothing was written


def test_settings_that_do_not_load_are_out_and_the_server_lives(
    arena: Arena, built: Config, registry: Registry
) -> None:
    settings = options_of(built, registry, "flux_schnell")
    bad = dataclasses.replace(settings["dit_step"], preferred_batch_sizes=(99,))
    with pytest.raises(CandidateError, match="99"):
        arena.turn({**settings, "dit_step": bad}, SECONDS)
    assert arena.turn(settings, SECONDS)


def test_a_server_that_dies_is_started_again_with_the_settings(
    arena: Arena, built: Config, registry: Registry
) -> None:
    settings = options_of(built, registry, "flux_schnell")
    settings["vae_decoder"] = dataclasses.replace(settings["vae_decoder"], instances=2)
    arena.turn(settings, SECONDS)
    os.kill(arena._server.server.pid, signal.SIGKILL)
    with pytest.raises(CandidateError, match="died"):
        arena.turn(settings, SECONDS)
    assert arena.turn(settings, SECONDS)
    served = arena._server.client.get_model_config("vae_decoder").config
    assert served.instance_group[0].count == 2


def test_a_bad_setting_is_found_and_replaced(
    built: Config, perf_analyzer: PerfAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command: a delay that no request should have is measured away."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "backends").symlink_to(built.build_dir / "backends")
    text = '[stages."clip_encoder"]\nmax_queue_delay_us = 30000  # a mistake\n'
    (tmp_path / "builder.toml").write_text(text)
    paths = PathOptions(exports=built.exports, repository=built.repository)
    config = dataclasses.replace(load_config(root=tmp_path, environ={}), paths=paths)
    # One core and few candidates, so that it is quick.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("builder.tune.tuner.SECONDS", (SECONDS,))
    monkeypatch.setattr("builder.tune.space.DELAYS_US", (0,))
    monkeypatch.setattr("builder.tune.space._DELAY_WITH_SIZES_US", ())
    monkeypatch.setattr("builder.bench.tool.find_perf_analyzer", lambda config: perf_analyzer)
    result = CliRunner().invoke(
        command,
        ["clip_encoder", "--concurrency", "1", "--budget", "200"],
        obj=config,
        standalone_mode=False,
    )
    assert result.return_value == 0, (result.output, result.exception)
    options = load_config(root=tmp_path, environ={}).stage_options("clip_encoder")
    assert options.max_queue_delay_us == 0
    assert "# a mistake" in (tmp_path / "builder.toml").read_text()
    data = json.loads((tmp_path / "build" / "tune" / "clip_encoder.json").read_text())
    [leg] = data["legs"]
    [winner] = [c for c in leg["candidates"] if c["winner"]]
    assert min(winner["pair_ratios"]) > 2
