"""`builder pipeline flux --lora` from the command line to a real server."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from builder.cli import cli
from builder.config import Config, load_config
from builder.errors import BuilderError, CheckpointError
from builder.families.flux.lora import Lora
from builder.families.flux.models import pipelines
from builder.families.flux.models.specs import Added, read_added, specs, write_added
from builder.family import Registry
from builder.record import read_record
from builder.repository.ensemble import check_pipeline
from builder.repository.signature import Signature
from builder.serving.backends import prepare_backends
from builder.serving.client import connect, infer
from builder.serving.installations import find_installation
from builder.serving.native_build import server_args
from builder.serving.server import TritonServer
from tests.families.flux.lora_files import clip_kohya_style, diffusers_style, kohya_style, save

OWN = {"flux_style_dit_step", "flux_style_clip_encoder"}
SHARED = {"flux_tokenizer", "t5_encoder", "flux_prepare", "vae_decoder"}


@dataclass(frozen=True)
class Style:
    """A copy of everything that is built, with one more pipeline."""

    config: Config
    files: tuple[Path, Path]

    def run(self, *words: str) -> Result:
        environment = {
            "BUILDER_PATHS_EXPORTS": str(self.config.exports),
            "BUILDER_PATHS_REPOSITORY": str(self.config.repository),
            "BUILDER_PATHS_BUILD": str(self.config.build_dir),
        }
        return CliRunner().invoke(cli, words, env=environment, catch_exceptions=False)

    def stale(self) -> dict[str, list[str]]:
        rows = json.loads(self.run("status", "flux_style", "--json").stdout)
        return {row["model"]: row["reasons"] for row in rows if not row["current"]}


@pytest.fixture(scope="module")
def style(built: Config, tmp_path_factory: pytest.TempPathFactory) -> Style:
    """Built in a copy, because the other tests count the pipelines that there are."""
    root = tmp_path_factory.mktemp("lora") / "copy"
    # Files are replaced, never changed, so the copy may share them.
    shutil.copytree(built.root, root, symlinks=True, copy_function=os.link)
    first = save(root / "style.safetensors", {**kohya_style(seed=4), **clip_kohya_style()})
    (root / "other").mkdir()
    second = save(root / "other" / "style.safetensors", diffusers_style(seed=5))
    copy = Style(load_config(root=root, environ={}), (first, second))
    result = copy.run(
        *("pipeline", "flux", "--name", "flux_style"),
        *("--lora", f"{first}:0.4", "--lora", f"{second}:-0.3"),
    )
    assert result.exit_code == 0, result.output
    assert "answered as proven" in result.output
    return copy


@pytest.fixture(scope="module")
def server(style: Style) -> Iterator[TritonServer]:
    server = TritonServer(
        [style.config.repository / "onnx", style.config.repository / "ensemble"],
        backend_directory=prepare_backends(style.config.build_dir / "lora", python=False),
        installation=find_installation("embedded"),
        load=("flux_style", "flux_schnell"),
        extra_args=server_args(),
    )
    with server:
        yield server


@pytest.mark.e2e
def test_only_what_is_changed_is_its_own(style: Style) -> None:
    spec = next(spec for spec in specs(style.config) if spec.name == "flux_style")
    assert [str(lora) for lora in spec.loras] == ["style.safetensors:0.4", "style.safetensors:-0.3"]
    models = [step.model for step in pipelines.pipeline(spec).steps]
    assert set(models) == OWN | SHARED
    assert models.count("flux_style_dit_step") == 4
    record = read_record(style.config.repository / "ensemble" / "flux_style" / "1")
    assert record is not None
    assert record.measured["parity"]["max_abs"]["image"] <= 1
    text = (style.config.repository / "onnx" / "flux_style_dit_step" / "config.pbtxt").read_text()
    assert "style.safetensors:0.4, style.safetensors:-0.3" in text
    assert style.run("lint", str(style.config.repository / "onnx")).exit_code == 0


@pytest.mark.e2e
def test_the_server_paints_what_the_fused_reference_paints(
    style: Style, server: TritonServer
) -> None:
    spec = next(spec for spec in specs(style.config) if spec.name == "flux_style")
    arrays = pipelines.request(spec, ["a fox", "ein Haus"], [1, 2], 48, 80, 0.0)
    want = pipelines.reference(spec, arrays)["image"].astype(int)
    client = connect(server.grpc_url)
    try:
        got = infer(client, "flux_style", arrays)["image"].astype(int)
        plain = infer(client, "flux_schnell", arrays)["image"].astype(int)
    finally:
        client.close()
    assert np.abs(got - want).max() <= 1
    assert np.abs(got - plain).mean() > 1


@pytest.mark.e2e
def test_generate_knows_it(style: Style, server: TritonServer, tmp_path: Path) -> None:
    result = style.run(
        *("generate", "a boat", "--pipeline", "flux_style", "--size", "64", "--seed", "3"),
        *("-o", str(tmp_path / "boat.png"), "--compare", "--json", "--url", server.grpc_url),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["difference"]["max_levels"] <= 1
    assert {stage["stage"] for stage in report["stages"]} == OWN | SHARED


@pytest.mark.e2e
def test_file_and_scale_decide_what_is_rebuilt(style: Style) -> None:
    assert style.stale() == {}
    second = style.files[1]
    content = second.read_bytes()
    save(second, diffusers_style(seed=6))
    changed = style.stale()
    assert {"flux_style_dit_step", "flux_style_clip_encoder", "flux_style"} == set(changed)
    assert "checkpoint changed" in changed["flux_style_dit_step"]
    second.write_bytes(content)
    assert style.stale() == {}
    before = read_added(style.config)
    entry = before["flux_style"]
    loras = (entry.loras[0], Lora(second, 0.5))
    other = Added(entry.variant, entry.steps, entry.image, loras, entry.clip)
    write_added(style.config, {"flux_style": other})
    assert "settings changed" in style.stale()["flux_style_dit_step"]
    write_added(style.config, before)
    assert style.stale() == {}


@pytest.mark.e2e
def test_a_file_that_is_gone_concerns_its_own_pipeline_only(style: Style) -> None:
    first, aside = style.files[0], style.files[0].with_suffix(".aside")
    first.rename(aside)
    try:
        assert "flux_style_dit_step" in style.stale()
        registry = Registry.load(style.config)
        with pytest.raises(CheckpointError, match=r"style\.safetensors"):
            registry.stages["flux_style_dit_step"].source.load()  # type: ignore[union-attr]
        assert "flux_schnell" in registry.pipelines
    finally:
        aside.rename(first)


@pytest.mark.e2e
def test_it_is_taken_away_again(style: Style) -> None:
    repository, exports = style.config.repository, style.config.exports / "flux"
    assert all((repository / "onnx" / name).is_dir() for name in OWN)
    result = style.run("pipeline", "flux", "--remove", "--name", "flux_style")
    assert result.exit_code == 0, result.output
    for name in OWN:
        assert not (repository / "onnx" / name).exists()
        assert not (exports / name).exists()
    assert not (repository / "ensemble" / "flux_style").exists()
    for name in (*SHARED, "dit_step", "clip_encoder"):
        assert (repository / "onnx" / name).is_dir()
        assert (exports / name).is_dir()
    assert read_added(style.config) == {}
    assert all(file.is_file() for file in style.files)


def test_several_share_one_trace(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each export is compared with its own fused network, so wrong weights could not pass."""
    import builder.export.trace as tracing
    from builder.digest import FileDigests
    from builder.export.exporter import Exporter
    from builder.export.parity import onnx_runner

    files = [save(tmp_path / f"{i}.safetensors", kohya_style(seed=i)) for i in range(2)]
    entries = {f"style_{i}": Added("schnell", 4, loras=(Lora(f),)) for i, f in enumerate(files)}
    write_added(config, entries)
    stages = Registry.load(config).stages
    traced, trace = [], tracing.trace
    monkeypatch.setattr(tracing, "trace", lambda *a, **k: traced.append(a) or trace(*a, **k))
    exporter, results = Exporter(FileDigests()), []
    for name in ("style_0_dit_step", "style_1_dit_step"):
        stage = stages[name]
        record = exporter.export(stage, tmp_path / name, {})
        assert record.measured["parity"]["worst"] <= 5e-6
        inputs = stage.example(stage.shapes[0], np.random.default_rng(1))
        results.append(onnx_runner(tmp_path / name / "model.onnx")(inputs)["next_latents"])
    assert len(traced) == 1
    assert np.abs(results[0] - results[1]).max() > 1e-3


def test_an_image_and_loras_go_together(config: Config, tmp_path: Path) -> None:
    loras = (Lora(tmp_path / "a.safetensors", 0.5),)
    write_added(config, {"both": Added("dev", 6, image=True, loras=loras, clip=True)})
    registry = Registry.load(config)
    pipeline = registry.pipelines["both"]
    signatures = {n: Signature(s.inputs, s.outputs) for n, s in registry.stages.items()}
    check_pipeline(pipeline, signatures, {n: s.max_batch_size for n, s in registry.stages.items()})
    assert {step.model for step in pipeline.steps} == {
        "flux_tokenizer_dev", "both_clip_encoder", "t5_encoder", "flux_image", "vae_encoder",
        "both_prepare", "both_dit_step", "vae_decoder",
    }  # fmt: skip


SMALL: dict[str, Any] = {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (4, 32)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora", "good.safetensors:much"], "no scale"),
        (["--lora", "gone.safetensors"], "no such file"),
        (["--lora", "bad.safetensors:1"], "has no up beside it"),
        (["--lora", "good.safetensors", "--steps", "0"], "0 steps"),
        (["--lora", "good.safetensors", "--name", "dit_step"], "of that name"),
    ],
)
def test_impossible_pipelines_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.safetensors", diffusers_style())
    save(tmp_path / "bad.safetensors", {k: torch.ones(shape) for k, shape in SMALL.items()})
    name = [] if "--name" in words else ["--name", "flux_style"]
    with pytest.raises(BuilderError, match=message):
        CliRunner().invoke(cli, ["pipeline", "flux", *name, *words], catch_exceptions=False)
    assert read_added(load_config(root=tmp_path, environ={})) == {}


def test_a_stage_that_would_have_a_taken_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flux` with a `flux_prepare` of its own: that of the variant."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuilderError, match="two models are named flux_prepare"):
        CliRunner().invoke(
            cli, ["pipeline", "flux", "--name", "flux", "--steps", "9"], catch_exceptions=False
        )
    assert read_added(load_config(root=tmp_path, environ={})) == {}
