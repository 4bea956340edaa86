"""FLUX with its weights left on the disk, and its graphs at full size."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from builder.build.execute import execute
from builder.build.plan import make_context, make_plan
from builder.cli import cli
from builder.config import Config, load_config
from builder.engines.trt.checks import mixed_types
from builder.errors import CheckpointError
from builder.export.exporter import Exporter, export_ingredients
from builder.export.external import outline
from builder.export.parity import onnx_runner
from builder.export.precision import convert
from builder.families.flux.architectures import released, with_depth
from builder.families.flux.checkpoint import build_component, load_component, parameters_of
from builder.families.flux.lora import Lora
from builder.families.flux.lora_fuse import fused_component
from builder.families.flux.models import dit_step, text_encoders, vae_decoder
from builder.families.flux.models.variants import Variant, variants
from builder.families.flux.skeleton import read_configs
from builder.families.flux.stored import stored_weights
from builder.family import Registry
from builder.lint import lint
from builder.record import read_record
from builder.stage import Stage, TorchSource
from tests.families.flux.lora_files import diffusers_style, save
from tests.families.flux.test_checkpoint import shard
from tests.families.flux.test_stages import by_diffusers

ROOT = Path(__file__).parents[3]


def to_dtype(folder: Path, component: str, dtype: torch.dtype) -> None:
    for file in (folder / component).glob("*.safetensors"):
        state = {k: v.to(dtype) for k, v in safetensors.torch.load_file(file).items()}
        file.unlink()
        safetensors.torch.save_file(state, file)


@pytest.fixture(scope="module")
def checkpoint(tiny_dev: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as the released one is: bfloat16, and the transformer in shards."""
    import shutil

    folder = shutil.copytree(tiny_dev, tmp_path_factory.mktemp("stored") / "flux")
    (folder / "tiny.json").unlink()
    for component in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        to_dtype(folder, component, torch.bfloat16)
    shard(folder, "transformer")
    return folder


@pytest.fixture(scope="module")
def streamed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Its transformer exported and published, with no weight held in memory."""
    root = tmp_path_factory.mktemp("streamed")
    config = configured(root, checkpoint)
    outcomes = build(config, "dit_step_dev")
    assert {str(a): str(o.error) for a, o in outcomes.items() if not o.ok} == {}
    return config


def configured(root: Path, checkpoint: Path) -> Config:
    return load_config(
        root=root,
        environ={"BUILDER_FLUX_CHECKPOINT": str(checkpoint), "BUILDER_BUILD_STREAM_FROM_MIB": "0"},
    )


def build(config: Config, *names: str) -> dict[Any, Any]:
    context = make_context(config, Registry.load(config))
    return execute(make_plan(context, names), context.digests)


def test_a_step_is_that_of_diffusers(streamed: Config) -> None:
    [variant] = variants(streamed)
    run = onnx_runner(streamed.exports / "flux" / "dit_step_dev" / "model.onnx")
    for seed, (h, w, text) in enumerate([(10, 18, 33), (2, 30, 1)]):
        shape = {"B": 1, "h": h, "w": w, "N": 7, "S": text}
        arrays = dit_step.example(variant, shape, np.random.default_rng(seed))
        got = run(arrays)["next_latents"]
        np.testing.assert_allclose(got, by_diffusers(variant, arrays), rtol=0, atol=5e-6)


def test_the_shards_are_what_is_published(streamed: Config, checkpoint: Path) -> None:
    shards = sorted((checkpoint / "transformer").glob("*.safetensors"))
    assert len(shards) == 2
    version = streamed.repository / "onnx" / "dit_step_dev" / "1"
    for file in shards:
        assert (version / file.name).read_bytes() == file.read_bytes()
        exported = streamed.exports / "flux" / "dit_step_dev" / file.name
        assert exported.samefile(file)
    record = read_record(streamed.exports / "flux" / "dit_step_dev")
    assert record is not None
    stored = record.measured["weights"]
    assert stored["streamed"] == 0
    assert stored["in_place"] == 2 * record.measured["parameters"]
    assert record.measured["parity"]["worst"] <= 5e-6
    assert [f for f in lint([streamed.repository / "onnx"]) if f.severity == "error"] == []


def test_a_second_build_does_nothing_and_a_new_shard_a_new_export(streamed: Config) -> None:
    assert {o.status for o in build(streamed, "dit_step_dev").values()} == {"current"}
    [variant] = variants(streamed)
    config = load_config(
        root=streamed.root, environ={"BUILDER_FLUX_CHECKPOINT": str(variant.checkpoint)}
    )
    context = make_context(config, Registry.load(config))
    [action] = [a for a in make_plan(context, ["dit_step_dev"]) if a.artefact == "export"]
    record = action.read_record()
    assert record is not None
    # Below the limit the weights would be loaded: another way, so another export.
    assert record.changes(action.ingredients()) == ["weights changed"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_step_in_another_precision(streamed: Config, tmp_path: Path, precision: str) -> None:
    """For sm75 and from sm80 on: FP32 inputs, outputs, norms and Euler update around it."""
    [variant] = variants(streamed)
    stage = dit_step.stage(variant)
    assert {stage.precision_at("sm75"), stage.precision_at("sm90")} == {"fp16", "bf16"}
    source = streamed.exports / "flux" / "dit_step_dev" / "model.onnx"
    target = convert(source, tmp_path / "model.onnx", precision)
    model = outline(target)
    assert mixed_types(model) == []
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    kept = {"LayerNormalization", "ReduceMean", "Pow", "Sqrt", "Softmax", "Cos", "Sin"}
    for node in model.graph.node:
        if node.op_type in kept:
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node
    if precision == "fp16":
        shape = {"B": 2, "h": 8, "w": 8, "N": 5, "S": 12}
        arrays = stage.example(shape, np.random.default_rng(3))
        want = onnx_runner(source)(arrays)["next_latents"]
        moved = np.abs(want - arrays["latents"]).max()
        error = np.abs(onnx_runner(target)(arrays)["next_latents"] - want).max()
        assert 0 < error <= 1e-3 * moved


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_a_text_encoder_with_the_hubs_names(
    checkpoint: Path, tmp_path: Path, component: str
) -> None:
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "flux")
    file = folder / component / "model.safetensors"
    state = safetensors.torch.load_file(file)
    rename: Callable[[str], str] = (
        (lambda name: f"text_model.{name}")
        if component == "text_encoder"
        else (lambda name: name.replace("shared.weight", "encoder.embed_tokens.weight"))
    )
    file.unlink()
    safetensors.torch.save_file({rename(k): v for k, v in state.items()}, file)
    config = configured(tmp_path, folder)
    [variant] = variants(config)
    is_clip = component == "text_encoder"
    stage = text_encoders.clip_encoder(variant) if is_clip else text_encoders.t5_encoder(variant)
    export(stage, tmp_path / "export")
    shape = {"B": 2, "S": 11}
    arrays = stage.example(shape, np.random.default_rng(0))
    network = load_component(checkpoint, component)
    with torch.inference_mode():
        result = network(torch.from_numpy(arrays["input_ids"]))
    want = (result.pooler_output if is_clip else result.last_hidden_state).numpy()
    [got] = onnx_runner(tmp_path / "export" / "model.onnx")(arrays).values()
    np.testing.assert_allclose(got, want, rtol=0, atol=stage.tolerance.atol)


def export(stage: Stage, folder: Path) -> None:
    from builder.digest import FileDigests

    digests = FileDigests()
    Exporter(digests, 0).export(stage, folder, export_ingredients(stage, digests, 0))


@pytest.mark.slow
def test_the_decoder(checkpoint: Path, tmp_path: Path) -> None:
    [variant] = variants(configured(tmp_path, checkpoint))
    export(vae_decoder.stage(variant), tmp_path / "export")
    record = read_record(tmp_path / "export")
    assert record is not None
    assert record.measured["weights"]["streamed"] == 0


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "text_encoder_2", "vae"])
def test_tensors_that_do_not_fit_are_named(
    checkpoint: Path, tmp_path: Path, component: str
) -> None:
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "flux")
    file = min((folder / component).glob("*.safetensors"))
    state = safetensors.torch.load_file(file)
    lost, renamed = sorted(state)[0], sorted(state)[-1]
    del state[lost]
    state[f"{renamed}_old"] = state.pop(renamed)
    file.unlink()
    safetensors.torch.save_file(state, file)
    for index in (folder / component).glob("*.index.json"):
        content = json.loads(index.read_text())
        content["weight_map"].pop(lost)
        content["weight_map"][f"{renamed}_old"] = content["weight_map"].pop(renamed)
        index.write_text(json.dumps(content))
    weights = stored_weights(lambda: folder, component, lambda network: network)
    with pytest.raises(CheckpointError) as caught:
        weights.tensors()
    assert f"missing tensor {lost}" in str(caught.value)
    assert f"missing tensor {renamed} (is it {renamed}_old, renamed?)" in str(caught.value)


def test_loras_change_the_weights_as_fusing_does(tiny_schnell: Path, tmp_path: Path) -> None:
    loras = (Lora(save(tmp_path / "a.safetensors", diffusers_style()), 0.7),)
    loras += (Lora(save(tmp_path / "b.safetensors", diffusers_style(seed=1)), -0.2),)
    weights = stored_weights(
        lambda: tiny_schnell, "transformer", lambda t: torch.nn.ModuleDict({"inner": t}), loras
    )
    stored, changes = weights.tensors(), weights.changes()
    fused = parameters_of(fused_component(tiny_schnell, "transformer", loras))
    plain = parameters_of(load_component(tiny_schnell, "transformer"))
    assert changes
    for name, tensor in stored.items():
        values = tensor.read()
        values = changes[name](values) if name in changes else values
        assert torch.equal(values, fused[name.removeprefix("inner.")])
        same = torch.equal(values, plain[name.removeprefix("inner.")])
        assert same == (name not in changes)


def test_the_released_architectures_have_their_published_size() -> None:
    """Parameters of black-forest-labs' and Google's files."""
    sizes = {}
    for variant in ("schnell", "dev"):
        for component, config in released(variant).items():
            sizes[variant, component] = count(component, config)
    assert sizes["schnell", "transformer"] == 11_891_178_560
    assert sizes["dev", "transformer"] == 11_901_408_320
    assert sizes["dev", "text_encoder_2"] == 4_762_310_656
    assert sizes["dev", "text_encoder"] == 123_060_480
    assert sizes["dev", "vae"] == 83_819_683


def count(component: str, config: dict[str, Any]) -> int:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / component / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config))
        return sum(
            p.numel() for p in parameters_of(build_component(Path(folder), component)).values()
        )


def test_the_command(tiny_dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one config.json is enough; the others are those that were released."""
    folder = tmp_path / "only"
    (folder / "text_encoder_2").mkdir(parents=True)
    text = (tiny_dev / "text_encoder_2" / "config.json").read_text()
    (folder / "text_encoder_2" / "config.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    words = ["export", "flux", "--skeleton", "--json", "--component", "text_encoder_2"]
    words += ["--depth", "1", "--weights", "fp16", "--checkpoint", str(folder)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    [report] = json.loads(done.stdout)
    assert (report["blocks"], report["variant"], report["weights"]) == ([1], "schnell", "fp16")
    path = Path(report["file"])
    assert path == tmp_path / "exports/flux/skeleton/text_encoder_2/model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert report["nodes"] == len(model.graph.node)
    widths = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input
    }
    assert (
        sum(int(np.prod(w)) for n, w in widths.items() if n != "input_ids") == report["parameters"]
    )
    assert report["parameters"] == count(
        "text_encoder_2", with_depth(json.loads(text), "text_encoder_2", 1)
    )
    halves = [
        v for v in model.graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    ]
    assert len(halves) == len(model.graph.input) - 1
    record = read_record(path.parent)
    assert record is not None
    assert record.artefact == "skeleton"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth", "2"], "add --skeleton"),
        (["--skeleton", "--depth", "0"], "depth"),
        (["--skeleton", "--component", "scheduler"], "component"),
        (["--skeleton", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_of_the_command(tmp_path: Path, words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "builder", "export", "flux", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_configurations_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_configs(tmp_path, None)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_configs(tmp_path, None)


def test_export_still_takes_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["export", "no_such_model"])
    assert "no model matches 'no_such_model'" in str(done.exception)
    text = CliRunner().invoke(cli, ["export", "--help"]).stdout
    assert "MODELS" in text
    assert "See also" in text
    assert "--skeleton" in CliRunner().invoke(cli, ["export", "flux", "--help"]).stdout


MEASURED = """
import json, sys
from pathlib import Path
import torch
from builder.config import load_config
from builder.digest import FileDigests
from builder.export.exporter import Exporter, export_ingredients
from builder.families.flux.architectures import released
from builder.families.flux.models import dit_step
from builder.families.flux.models.variants import Variant, widths_of
from builder.families.flux.options import FluxOptions

folder, out = map(Path, sys.argv[1:])
config = load_config(root=folder, environ={})

class Sharded(Variant):
    def files(self, *names):
        return tuple((folder / "transformer").iterdir())

variant = Sharded("schnell", folder, False, widths_of(released("schnell")), FluxOptions())
stage = dit_step.stage(variant)
digests = FileDigests()
record = Exporter(digests, 0).export(stage, out, export_ingredients(stage, digests, 0))
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"parity": record.measured["parity"]["worst"],
                  "weights": record.measured["weights"],
                  "peak": int(lines["VmHWM"].split()[0]) << 10}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_true_widths_with_few_blocks(tmp_path: Path, dtype: torch.dtype) -> None:
    """One block of each kind, 3072 wide: 0.5 B parameters, compared at every shape of the stage."""
    config = with_depth(released("schnell")["transformer"], "transformer", 1)
    folder = tmp_path / "flux" / "transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    network = build_component(tmp_path / "flux", "transformer")
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in parameters_of(network).items():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            values = values / (2 * parameter.shape[1] ** 0.5)
        else:
            values = 1 + 0.25 * values if "norm" in name else 0.1 * values
        state[name] = values.to(dtype)
    size = sum(t.numel() * t.itemsize for t in state.values())
    largest = max(t.numel() for t in state.values()) * 4
    safetensors.torch.save_file(state, folder / "diffusion_pytorch_model.safetensors")
    del state, values
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "flux"), str(tmp_path / "export")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["weights"] == {"in_place": size, "streamed": 0}
    assert report["parity"] <= 5e-6
    assert report["peak"] < 0.8 * 2**30 + 5 * largest  # the libraries, and a few tensors


def test_stages_have_stored_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Each stage's module on the meta device has the parameters that its loaded module has."""
    [variant] = variants(configured(tmp_path, checkpoint))
    assert isinstance(variant, Variant)
    for stage in (
        dit_step.stage(variant),
        text_encoders.clip_encoder(variant),
        text_encoders.t5_encoder(variant),
        vae_decoder.stage(variant),
    ):
        source = stage.source
        assert isinstance(source, TorchSource)
        assert source.stored is not None
        loaded = dict(source.load().named_parameters())
        stored = source.stored.tensors()
        assert set(stored) == set(loaded) == set(dict(source.stored.module().named_parameters()))
        assert all(torch.equal(t.read().float(), loaded[n]) for n, t in stored.items())
