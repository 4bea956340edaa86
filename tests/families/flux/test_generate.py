"""`builder generate` and `builder pipeline flux` against a real server."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli import cli
from builder.config import Config, load_config
from builder.errors import BuilderError, UsageError
from builder.families.flux.generate_options import check_guidance, check_prompt, choose, read_size
from builder.families.flux.models import pipelines
from builder.families.flux.models.specs import (
    Added,
    PipelineSpec,
    read_added,
    specs,
    write_added,
)
from builder.serving.client import infer
from builder.serving.server import TritonServer


def generate(native: TritonServer, built: Config, *arguments: str) -> Result:
    runner = CliRunner()
    return runner.invoke(
        cli,
        ["generate", *arguments, "--url", native.grpc_url],
        obj=built,
        catch_exceptions=False,
        env={"BUILDER_PATHS_BUILD": str(built.build_dir)},
    )


@pytest.mark.e2e
def test_it_saves_what_the_server_painted(
    native: TritonServer, built: Config, flux: dict[str, PipelineSpec], tmp_path: Path
) -> None:
    out = tmp_path / "pictures" / "boat.png"
    result = generate(
        native, built, "a boat", "-o", str(out), "--seed", "5", "--size", "64x96", "--json"
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["height"], report["width"], report["pipeline"]) == (64, 96, "flux_schnell")
    stages = {stage["stage"]: stage for stage in report["stages"]}
    assert stages["dit_step"]["runs"] == 4
    assert stages["vae_decoder"]["runs"] == 1
    assert stages["dit_step"]["compute_ms"] > 0
    from builder.serving.client import connect

    client = connect(native.grpc_url)
    arrays = pipelines.request(flux["flux_schnell"], ["a boat"], [5], 64, 96, 0.0)
    want = infer(client, "flux_schnell", arrays)["image"][0]
    client.close()
    np.testing.assert_array_equal(np.asarray(Image.open(out)), want)


@pytest.mark.e2e
def test_it_compares_with_pytorch(native: TritonServer, built: Config, tmp_path: Path) -> None:
    result = generate(
        native, built, "a boat", "-o", str(tmp_path / "a.png"), "--size", "48", "--steps", "28",
        "--guidance", "2", "--compare",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "flux_dev" in result.stdout
    assert "PyTorch differs in" in result.stdout
    levels = int(result.stdout.split(" of 255 levels")[0].split()[-1])
    assert levels <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("768x1024", (768, 1024)), ("512", (512, 512)), ("16X32", (16, 32)), (None, (1024, 1024))],
)
def test_sizes(config: Config, text: str | None, expected: tuple[int, int]) -> None:
    assert read_size(text, specs(config)[0]) == expected


@pytest.mark.parametrize("text", ["0", "-64x64", "100", "64x", "x64", "big", "4096", "64x64x3"])
def test_bad_sizes_are_refused(config: Config, text: str) -> None:
    with pytest.raises(UsageError):
        read_size(text, specs(config)[0])


def test_pipelines_are_chosen_by_name_or_steps(config: Config) -> None:
    assert choose(config, None, None).name == "flux_schnell"
    assert choose(config, None, 28).name == "flux_dev"
    assert choose(config, "flux_dev", None).name == "flux_dev"
    with pytest.raises(UsageError, match="no pipeline with 5 steps") as error:
        choose(config, None, 5)
    assert "builder pipeline flux --steps 5" in str(error.value)
    with pytest.raises(UsageError, match="flux_dve"):
        choose(config, "flux_dve", None)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -float("inf")])
def test_guidance_must_be_a_number(config: Config, guidance: float) -> None:
    with pytest.raises(UsageError):
        check_guidance(guidance, choose(config, "flux_dev", None))


def test_guidance_is_refused_where_it_would_do_nothing(config: Config) -> None:
    with pytest.raises(UsageError, match="takes no guidance"):
        check_guidance(3.5, choose(config, "flux_schnell", None))


@pytest.mark.parametrize("prompt", ["a\0b", "\udcff", "x" * 100_001])
def test_prompts_that_no_tokenizer_takes_are_refused(prompt: str) -> None:
    with pytest.raises(UsageError):
        check_prompt(prompt)


@pytest.mark.e2e
@pytest.mark.slow
def test_one_more_pipeline_is_one_command(built: Config) -> None:
    """It is built, proven on a server, and taken away again."""
    runner = CliRunner()
    environment = {
        "BUILDER_PATHS_EXPORTS": str(built.exports),
        "BUILDER_PATHS_REPOSITORY": str(built.repository),
        "BUILDER_PATHS_BUILD": str(built.build_dir),
    }
    words = ["pipeline", "flux", "--name", "flux_8"]
    result = runner.invoke(cli, [*words, "--steps", "8"], env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = built.repository / "ensemble" / "flux_8"
    assert (folder / "config.pbtxt").read_text().count('model_name: "dit_step"') == 8
    assert "flux_8" in {spec.name for spec in specs(built)}
    result = runner.invoke(cli, [*words, "--remove"], env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert not folder.exists()
    assert not (built.repository / "onnx" / "flux_8_prepare").exists()
    assert read_added(built) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--name", "flux_0", "--steps", "0"], "0 steps"),
        (["--name", "flux_0"], "how many steps"),
        (["--name", "dit_step", "--steps", "8"], "of that name"),
        (["--name", "../x", "--steps", "8"], "x"),
        (["--name", "flux_7", "--remove"], "was not added"),
    ],
)
def test_impossible_pipelines_are_refused(
    tmp_path: Path, arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuilderError, match=expected):
        CliRunner().invoke(cli, ["pipeline", "flux", *arguments], catch_exceptions=False)
    assert read_added(load_config(root=tmp_path, environ={})) == {}


def test_a_damaged_list_of_pipelines_is_named(config: Config) -> None:
    write_added(config, {"flux_8": Added("schnell", 8)})
    names = ["flux_schnell", "flux_dev", "flux_img2img", "flux_img2img_dev", "flux_8"]
    assert [spec.name for spec in specs(config)] == names
    (config.exports / "flux" / "pipelines.json").write_text('{"flux_8": {"steps": 8}}')
    with pytest.raises(BuilderError, match=r"pipelines\.json"):
        specs(config)
