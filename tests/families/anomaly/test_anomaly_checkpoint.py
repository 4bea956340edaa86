import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from builder.errors import BuilderError, CheckpointError
from builder.families.anomaly import checkpoint
from builder.families.anomaly.channels import CHANNELS
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.tranad import TranAD
from builder.families.anomaly.options import SHIPPED_WEIGHTS


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = OmniAnomaly().eval()
    path = tmp_path / "SMAP_E-1.safetensors"
    checkpoint.save(module, path, {"channel": "E-1"})
    return path, module


def upstream_checkpoint(path, module, **more):
    """A file of the form that the authors' training script writes, in double precision."""
    state = {
        name: tensor.double()
        for name, tensor in module.state_dict().items()
        if not name.startswith(("normaliser.", "scorer."))
    }
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    content = {
        "epoch": 4,
        "model_state_dict": state,
        "optimizer_state_dict": optimiser.state_dict(),
        "scheduler_state_dict": torch.optim.lr_scheduler.StepLR(optimiser, 5).state_dict(),
        "accuracy_list": [(0.1, 0.001)],
        **more,
    }
    torch.save(content, path)


def test_weights_come_back_as_they_were_saved(saved):
    path, module = saved
    loaded = checkpoint.load_omnianomaly(path)
    assert not loaded.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert checkpoint.read_metadata(path) == {"channel": "E-1", "format_version": "1"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gru.weight_ih_l0", None, "missing tensor gru.weight_ih_l0"),
        ("extra", torch.zeros(1), "unexpected tensor extra"),
        ("gru.bias_hh_l1", torch.zeros(95), r"gru.bias_hh_l1 has shape \[95\], not \[96\]"),
        ("decoder.0.bias", torch.full((32,), torch.nan), "decoder.0.bias holds NaN"),
        ("decoder.0.bias", torch.full((32,), torch.inf), "decoder.0.bias holds NaN or Inf"),
        ("decoder.0.bias", torch.zeros(32, dtype=torch.int64), "dtype torch.int64"),
        ("scorer.threshold", torch.tensor(torch.nan), "scorer.threshold holds NaN"),
    ],
)
def test_every_difference_is_named(saved, name, change, message):
    path, module = saved
    tensors = dict(module.state_dict())
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load_omnianomaly(path)
    assert str(path) in str(caught.value)


def test_all_differences_are_named_at_once(saved):
    path, module = saved
    tensors = {f"old.{name}": tensor for name, tensor in module.state_dict().items()}
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_omnianomaly(path)
    assert str(caught.value).count("missing tensor") == len(tensors)
    assert str(caught.value).count("unexpected tensor") == len(tensors)


def test_weights_of_the_other_network_are_refused(saved):
    with pytest.raises(CheckpointError, match="does not fit TranAD"):
        checkpoint.load_tranad(saved[0])


def test_truncated_foreign_and_missing_files_are_refused(saved):
    path, _ = saved
    whole = path.read_bytes()
    for content in (b"", whole[:7], whole[:500], whole[:-1], whole + b"x", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a complete safetensors"):
            checkpoint.load_omnianomaly(path)
        with pytest.raises(CheckpointError, match="not a complete safetensors"):
            checkpoint.read_metadata(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load_omnianomaly(path)
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load_omnianomaly(path.parent)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.truncate(checkpoint.MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match="more than"):
        checkpoint.load_omnianomaly(path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(saved):
    path, module = saved
    with pytest.raises(BuilderError):
        checkpoint.save(module, path / "below" / "x.safetensors", {})
    assert checkpoint.load_omnianomaly(path)


def test_an_upstream_checkpoint_loads_in_single_precision(tmp_path):
    torch.manual_seed(1)
    module = TranAD().eval()
    upstream_checkpoint(tmp_path / "model.ckpt", module)
    loaded = checkpoint.load_tranad(tmp_path / "model.ckpt")
    window = torch.rand(30, 25)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(window)[0], module(window)[0])
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert loaded.scorer.threshold == torch.inf


def test_the_names_are_those_of_the_authors_implementation():
    """Written down from the public implementation, which nests torch's own containers."""
    names = set()
    for stack, attentions in (
        ("transformer_encoder", ("self_attn",)),
        ("transformer_decoder1", ("self_attn", "multihead_attn")),
        ("transformer_decoder2", ("self_attn", "multihead_attn")),
    ):
        for attention in attentions:
            parts = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            names |= {f"{stack}.layers.0.{attention}.{part}" for part in parts}
        names |= {f"{stack}.layers.0.linear{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
    names |= {"pos_encoder.pe", "fcn.0.weight", "fcn.0.bias"}
    own = {n for n in TranAD().state_dict() if not n.startswith(("normaliser.", "scorer."))}
    assert own == names
    assert TranAD().state_dict()["pos_encoder.pe"].shape == (10, 1, 50)


class Code:
    """An object whose unpickling would run a command."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "model.ckpt"
    upstream_checkpoint(path, TranAD(), extra=Code(marker))
    with pytest.raises(CheckpointError, match="could run code") as caught:
        checkpoint.load_tranad(path)
    assert str(path) in str(caught.value)
    path.write_bytes(pickle.dumps(Code(marker)))
    with pytest.raises(CheckpointError):
        checkpoint.load_tranad(path)
    assert not marker.exists()


def test_a_damaged_or_foreign_upstream_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    upstream_checkpoint(path, TranAD())
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:1000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.load_tranad(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no model_state_dict"):
        checkpoint.load_tranad(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no model_state_dict"):
        checkpoint.load_tranad(path)
    upstream_checkpoint(path, TranAD(), model_state_dict={"fcn.0.bias": torch.zeros(24)})
    with pytest.raises(CheckpointError, match=r"missing .*fcn.0.bias has shape \[24\]"):
        checkpoint.load_tranad(path)


def test_weights_are_shipped_for_every_channel_and_tranad_in_4_mb():
    files = sorted(SHIPPED_WEIGHTS.glob("*.safetensors"))
    assert {f.stem for f in files} == {c.model for c in CHANNELS} | {"tranad_sat1"}
    assert sum(f.stat().st_size for f in files) < 4_000_000
    for channel in CHANNELS:
        path = checkpoint.weights_path(SHIPPED_WEIGHTS, channel.model)
        module = checkpoint.load_omnianomaly(path)
        assert 1 < module.scorer.threshold < 10
        assert checkpoint.read_metadata(path)["channel"] == channel.name
    tranad = checkpoint.load_tranad(checkpoint.weights_path(SHIPPED_WEIGHTS, "tranad_sat1"))
    assert torch.isfinite(tranad.scorer.threshold)
