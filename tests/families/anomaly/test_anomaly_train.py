import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.errors import DataError
from builder.families.anomaly import checkpoint, train
from builder.families.anomaly.calibration import MARGIN, ScoreSettings, normal_range
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.tranad import TranAD
from builder.families.anomaly.telemetry import load_train
from builder.families.anomaly.thresholds import PotSettings
from builder.families.anomaly.train import TrainSettings, train_to_file

KINDS = (OmniAnomaly, TranAD)


class KilledError(Exception):
    pass


def run(kind, array, settings, folder, **options):
    target = folder / "weights.safetensors"
    outcome = train_to_file(kind, "E-1", array, settings, target, folder / "work", **options)
    return outcome, target


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_is_repeatable(kind, train_array, tmp_path):
    losses = []
    outcome, target = run(
        kind,
        train_array,
        TrainSettings(4),
        tmp_path / "a",
        report=lambda epoch, loss: losses.append((epoch, loss)),
    )
    assert outcome == "trained"
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] < losses[0][1]
    _, again = run(kind, train_array, TrainSettings(4), tmp_path / "b")
    assert target.read_bytes() == again.read_bytes()
    _, other = run(kind, train_array, TrainSettings(4, seed=1), tmp_path / "c")
    assert target.read_bytes() != other.read_bytes()
    assert not list((tmp_path / "a" / "work").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(kind, train_array, tmp_path):
    settings = TrainSettings(3)
    _, whole = run(kind, train_array, settings, tmp_path / "whole")

    def stop(epoch, loss):
        if epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run(kind, train_array, settings, tmp_path / "cut", report=stop)
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    epochs = []
    _, resumed = run(
        kind, train_array, settings, tmp_path / "cut", report=lambda e, _: epochs.append(e)
    )
    assert epochs == [3]
    assert resumed.read_bytes() == whole.read_bytes()


KILLED = """
import sys
from pathlib import Path
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.telemetry import load_train
from builder.families.anomaly.train import TrainSettings, train_to_file

data, out = map(Path, sys.argv[1:])
train_to_file(
    OmniAnomaly, "E-1", load_train(data, "E-1"), TrainSettings(10_000), out / "x.safetensors", out
)
"""


def test_a_killed_process_leaves_a_state_to_go_on_from_and_no_weights(synthetic_folder, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, synthetic_folder, tmp_path])
    state = tmp_path / "x.state"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "x.safetensors").exists()
    saved = torch.load(state, weights_only=True)
    assert 1 <= saved["epochs"] < 10_000
    array = load_train(synthetic_folder, "E-1")
    epochs = []

    def stop(epoch, loss):
        epochs.append(epoch)
        raise KilledError

    with pytest.raises(KilledError):
        train.train_omnianomaly(array, TrainSettings(10_000), state, stop)
    assert epochs == [saved["epochs"] + 1]


def test_a_state_of_other_data_or_damaged_is_not_resumed(train_array, tmp_path):
    _, whole = run(OmniAnomaly, train_array, TrainSettings(1), tmp_path / "whole")
    for number, content in enumerate((b"", b"damaged", b"PK\x03\x04")):
        folder = tmp_path / f"damaged{number}"
        (folder / "work").mkdir(parents=True)
        (folder / "work" / "weights.state").write_bytes(content)
        _, target = run(OmniAnomaly, train_array, TrainSettings(1), folder)
        assert target.read_bytes() == whole.read_bytes()
    state = tmp_path / "work" / "other.state"
    train.train_omnianomaly(train_array[:200], TrainSettings(1), state)
    epochs = []
    train.train_omnianomaly(train_array, TrainSettings(1), state, lambda e, _: epochs.append(e))
    assert epochs == [1]


def test_a_second_run_does_nothing_and_other_scoring_keeps_the_network(train_array, tmp_path):
    outcome, target = run(OmniAnomaly, train_array, TrainSettings(1), tmp_path)
    before = target.read_bytes()
    assert run(OmniAnomaly, train_array, TrainSettings(1), tmp_path)[0] == "unchanged"
    assert target.read_bytes() == before
    settings = TrainSettings(1, score=ScoreSettings(columns=(0, 3), pot=PotSettings(1e-3, 0.9)))
    network = checkpoint.load_omnianomaly(target).gru.weight_hh_l0
    outcome, _ = run(OmniAnomaly, train_array, settings, tmp_path)
    assert outcome == "rescored"
    assert checkpoint.read_metadata(target)["scored_columns"] == "0,3"
    assert torch.equal(network, checkpoint.load_omnianomaly(target).gru.weight_hh_l0)
    assert run(OmniAnomaly, train_array, TrainSettings(2), tmp_path)[0] == "trained"
    target.write_bytes(b"damaged")
    assert run(OmniAnomaly, train_array, TrainSettings(1), tmp_path)[0] == "trained"
    assert target.read_bytes() == before


def test_the_header_tells_what_was_done(train_array, tmp_path):
    _, target = run(OmniAnomaly, train_array, TrainSettings(1, seed=7), tmp_path)
    facts = checkpoint.read_metadata(target)
    assert facts["model"] == "OmniAnomaly"
    assert (facts["channel"], facts["epochs"], facts["seed"]) == ("E-1", "1", "7")
    assert (facts["scored_columns"], facts["train_samples"]) == ("0", str(len(train_array)))
    assert facts["torch"] == torch.__version__
    assert float(facts["pot_threshold"]) > 0


def test_training_leaves_generator_and_threads_alone(train_array):
    torch.manual_seed(11)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train.train_omnianomaly(train_array, TrainSettings(1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("samples", [1, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_too_few_samples_are_refused(kind, samples, train_array, tmp_path):
    with pytest.raises(DataError, match=f"{samples} train samples"):
        run(kind, train_array[:samples], TrainSettings(1), tmp_path)


def test_a_train_array_shorter_than_the_long_window_still_gives_a_detector(train_array, tmp_path):
    _, target = run(TranAD, train_array[:40], TrainSettings(1), tmp_path)
    module = checkpoint.load_tranad(target)
    with torch.inference_mode():
        _, score, _ = module(torch.from_numpy(train_array))
    assert torch.isfinite(score).all()


def test_constant_telemetry_gives_a_detector_that_sees_a_step(tmp_path):
    array = np.zeros((200, 25), np.float32)
    array[:, 0] = 0.999
    _, target = run(OmniAnomaly, array, TrainSettings(1), tmp_path)
    module = checkpoint.load_omnianomaly(target)
    window = torch.from_numpy(array.copy())
    with torch.inference_mode():
        assert not module(window)[2].any()
        window[120:, 0] = 0.7
        detected = module(window)[2]
    assert not detected[:120].any()
    assert detected[120:150].all()


def test_the_threshold_is_at_least_the_margin_above_normal(train_array, tmp_path):
    _, target = run(OmniAnomaly, train_array, TrainSettings(2), tmp_path)
    module = checkpoint.load_omnianomaly(target)
    with torch.inference_mode():
        _, score, detected = module(torch.from_numpy(train_array))
    facts = checkpoint.read_metadata(target)
    assert module.scorer.threshold == pytest.approx(
        max(float(facts["pot_threshold"]), 1 + MARGIN), rel=1e-6
    )
    assert score.max() < 1.01
    assert not detected.any()


def test_a_drifting_statistic_gets_a_wider_range_than_a_steady_one():
    ramp = np.linspace(0, 1, 500, dtype=np.float32)[:, None].repeat(25, axis=1)
    wave = np.sin(np.arange(500, dtype=np.float32))[:, None].repeat(25, axis=1)
    drifting = normal_range(ramp, 1, 0.01)
    np.testing.assert_allclose(drifting.centre, 0.5, atol=1e-6)
    assert drifting.half_width[0] > 0.6
    assert 1 <= drifting.held_out.max() < 1.1
    steady = normal_range(wave, 1, 0.01)
    assert steady.half_width[0] == pytest.approx(1, abs=0.01)
    constant = normal_range(np.zeros((500, 25), np.float32), 1, 0.05)
    assert constant.half_width[0] == pytest.approx(0.05)
    assert constant.held_out.max() == 0


def test_an_upstream_network_is_adopted_and_calibrated(train_array, tmp_path):
    torch.manual_seed(4)
    network = TranAD()
    state = {
        name: tensor.double()
        for name, tensor in network.state_dict().items()
        if not name.startswith(("normaliser.", "scorer."))
    }
    source = tmp_path / "model.ckpt"
    torch.save({"epoch": 1, "model_state_dict": state, "accuracy_list": []}, source)
    target = Path(tmp_path / "tranad_sat1.safetensors")
    train.adopt_upstream(source, "E-1", train_array, TrainSettings(1), target)
    module = checkpoint.load_tranad(target)
    assert torch.equal(module.fcn[0].weight, network.fcn[0].weight)
    assert 1 < module.scorer.threshold < 100
    assert len(checkpoint.read_metadata(target)["upstream"]) == 64
