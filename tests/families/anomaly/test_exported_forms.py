"""What is exported has fewer operations than the plain modules, and the same results."""

from collections import Counter

import numpy as np
import pytest
import torch

from builder.config import load_config
from builder.digest import FileDigests
from builder.export.exporter import MODEL, Exporter
from builder.export.parity import onnx_runner
from builder.families.anomaly.calibration import ScoreSettings, fit_normaliser, fit_scorer
from builder.families.anomaly.channels import find_channel
from builder.families.anomaly.checkpoint import load_tranad, save, weights_path
from builder.families.anomaly.models import omnianomaly
from builder.families.anomaly.models.detector import telemetry_window
from builder.families.anomaly.models.postprocessing import detectors
from builder.families.anomaly.networks.compact_score import compact_score
from builder.families.anomaly.networks.folded_tranad import folded_reconstruction
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.reference import answer
from builder.families.anomaly.networks.scoring import SCORE_MAX, STATISTICS, Scorer
from builder.families.anomaly.networks.tranad import TranAD
from builder.families.anomaly.options import SHIPPED_WEIGHTS

LENGTHS = (1, 2, 9, 10, 11, 15, 16, 17, 63, 64, 65, 200)


def random_scorer(rng, columns):
    scorer = Scorer()
    scorer.centre.copy_(torch.from_numpy(rng.random(scorer.centre.shape)))
    scorer.half_width.copy_(torch.from_numpy(rng.uniform(0.05, 1, scorer.half_width.shape)))
    scorer.weights.zero_()
    scorer.weights[columns] = torch.from_numpy(rng.uniform(0.5, 2, len(columns))).float()
    return scorer


@pytest.mark.parametrize("columns", [[0], [7], [3, 0], [24, 1, 5]], ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_compact_score_is_the_score(length, columns):
    rng = np.random.default_rng(length)
    scorer = random_scorer(rng, columns)
    normal, restored = (
        torch.from_numpy(rng.uniform(-1, 2, (length, 25)).astype(np.float32)) for _ in range(2)
    )
    finite = torch.from_numpy(rng.random(length) < 0.97)
    want = scorer(normal, restored, finite)
    got = compact_score(scorer, normal, restored, finite, len(columns))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-6)


def test_more_columns_than_have_a_weight_change_nothing():
    rng = np.random.default_rng(0)
    scorer = random_scorer(rng, [4])
    arrays = (torch.from_numpy(rng.random((90, 25)).astype(np.float32)) for _ in range(2))
    normal, restored = arrays
    finite = torch.ones(90, dtype=torch.bool)
    one, five = (compact_score(scorer, normal, restored, finite, k) for k in (1, 5))
    torch.testing.assert_close(one, five, atol=1e-5, rtol=1e-6)


def test_windows_with_an_invalid_sample_do_not_count_in_the_compact_score():
    scorer = Scorer()
    scorer.half_width.fill_(1e6)
    scorer.half_width[[i for i, s in enumerate(STATISTICS) if s == ("mean", 16)]] = 1e-3
    finite = torch.ones(200, dtype=torch.bool)
    finite[100] = False
    score = compact_score(scorer, torch.ones(200, 25), torch.ones(200, 25), finite, 1)
    assert (score < 1).nonzero().flatten().tolist() == [*range(15), *range(101, 116)]
    assert score[100] == SCORE_MAX


def test_the_columns_are_counted_when_the_buffers_are_loaded():
    source, target = Scorer(), Scorer()
    source.weights[[4, 9]] = 1.0
    target.load_state_dict(source.state_dict())
    assert target.columns == 3
    source.weights.zero_()
    target.load_state_dict(source.state_dict())
    assert target.columns == 1  # there is no graph without any


def trained_tranad():
    return load_tranad(weights_path(SHIPPED_WEIGHTS, "tranad_sat1"))


def random_tranad(factor=1.0):
    torch.manual_seed(0)
    module = TranAD().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module


def values(length):
    rng = np.random.default_rng(length)
    return torch.from_numpy(rng.uniform(-1, 2, (length, 25)))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_folded_tranad_is_tranad(length):
    module = trained_tranad()
    normal = values(length).float()
    with torch.inference_mode():
        want, got = module.reconstruct(normal), folded_reconstruction(module, normal)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)  # rounding of large logits


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_folding_is_exact_but_for_rounding(factor):
    """In double precision, also where logits are so large that an exponential would overflow."""
    module = random_tranad(factor).double()
    for length in LENGTHS:
        with torch.inference_mode():
            want = module.reconstruct(values(length))
            got = folded_reconstruction(module, values(length))
        torch.testing.assert_close(got, want, atol=1e-7, rtol=0)


def detector(columns, train_array, seed):
    torch.manual_seed(seed)
    module = OmniAnomaly()
    with torch.no_grad():
        module.encoder[1].weight.fill_(0.3)  # unlike the other layers' slopes
    fit_normaliser(module.normaliser, train_array)
    fit_scorer(module, train_array, ScoreSettings(columns=columns))
    return module.eval()


def test_detectors_that_score_other_columns_do_not_share_a_graph(tmp_path, train_array):
    """Both exports pass the parity check, in either order."""
    stages = []
    for name, columns in (("E-1", (0,)), ("A-1", (0, 3)), ("E-2", (2,)), ("A-2", tuple(range(12)))):
        path = weights_path(tmp_path, f"SMAP_{name}")
        save(detector(columns, train_array, len(stages)), path, {})
        stages.append(omnianomaly.stage(find_channel(name), path))
    exporter = Exporter(FileDigests())
    nodes = []
    for stage in stages:
        exporter.export(stage, tmp_path / stage.name, {})
        nodes.append(operators(tmp_path / stage.name / MODEL))
    assert nodes[0] == nodes[2]
    assert sum(nodes[0].values()) < sum(nodes[3].values())


def shipped():
    everything = detectors(load_config(environ={}))
    return [everything[name] for name in ("SMAP_E-1", "tranad_sat1")]


def operators(path):
    import onnx

    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("stage", shipped(), ids=lambda stage: stage.name)
def test_an_export_answers_like_torch_where_samples_are_wild(stage, tmp_path):
    Exporter(FileDigests()).export(stage, tmp_path / "export", {})
    run = onnx_runner(tmp_path / "export" / MODEL)
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38):
        window = telemetry_window(150, np.random.default_rng(3))
        window[70:74, 0] = value
        window[80, 5] = value
        want, got = answer(stage, window), run({"input_data": window})
        np.testing.assert_array_equal(got["anomaly_detected"], want["anomaly_detected"])
        np.testing.assert_allclose(
            got["anomaly_score"], want["anomaly_score"], atol=2e-5, rtol=1e-6
        )
        np.testing.assert_allclose(
            got["reconstruction"], want["reconstruction"], atol=1e-5, rtol=1e-5
        )
