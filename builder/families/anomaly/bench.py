"""What `builder bench` compares: one detector, the pipeline, and all channels at once."""

from collections.abc import Iterable, Sequence
from functools import partial

from builder.bench.case import Case, Load, Variant
from builder.bench.results import FLOOR, NATIVE, PYTHON, TRT
from builder.config import Config
from builder.families.anomaly.channels import CHANNELS, FEATURES
from builder.serving.states import models_in
from builder.stage import Arrays

WINDOW = 100
"""Samples in a request."""

DISTINCT = 8
"""Different requests per load generator."""

_REQUEST = f"FP32 [{WINDOW},{FEATURES}], telemetry-like, {DISTINCT} different ones"


def cases(config: Config) -> Iterable[Case]:
    """The cases, for the models that `config` builds."""
    plans = set(models_in(config.repository / "tensorrt"))
    return (_detector(config, plans), _pipeline(config, plans), _channels(config))


def _detector(config: Config, plans: set[str]) -> Case:
    model = "SMAP_A-1"
    send = partial(_windows, "input_data")
    variants = [Variant(name=NATIVE, loads=(Load(model, send),))]
    if f"{model}_trt" in plans:
        variants.append(Variant(name=TRT, loads=(Load(f"{model}_trt", send),)))
    variants += [
        Variant(name=PYTHON, loads=(Load("omnianomaly_py", send),)),
        Variant(name=FLOOR, loads=(Load(model, send),)),
    ]
    return Case(
        name=model,
        title="one OmniAnomaly detector",
        unit="window",
        request=_REQUEST,
        variants=tuple(variants),
        config=config,
    )


def _pipeline(config: Config, plans: set[str]) -> Case:
    model = "anomaly_pipeline"
    send = partial(_windows, "telemetry")
    variants = [Variant(name=NATIVE, loads=(Load(model, send),))]
    if (config.repository / "ensemble" / model / "configs" / "trt.pbtxt").is_file() and plans:
        variants.append(Variant(name=TRT, loads=(Load(model, send),), config_name="trt"))
    variants += [
        Variant(name=PYTHON, loads=(Load(f"{model}_py", send),)),
        Variant(name=FLOOR, loads=(Load(model, send),)),
    ]
    return Case(
        name=model,
        title="preprocessing, OmniAnomaly and TranAD side by side, one answer",
        unit="window",
        request=f"{_REQUEST}, with drop-outs",
        variants=tuple(variants),
        config=config,
    )


def _channels(config: Config) -> Case:
    """All channels at the same time: one client per channel, whoever answers."""
    native = [
        Load(channel.model, partial(_windows, "input_data", seed=number))
        for number, channel in enumerate(CHANNELS)
    ]
    twin = [
        Load("omnianomaly_py", partial(_windows, "input_data", seed=number, channel=channel.name))
        for number, channel in enumerate(CHANNELS)
    ]
    return Case(
        name="smap_channels",
        title=f"all {len(CHANNELS)} channels at the same time",
        unit="window",
        request=f"{_REQUEST}; a client per channel",
        variants=(
            Variant(name=NATIVE, loads=tuple(native)),
            Variant(name=PYTHON, loads=tuple(twin)),
            Variant(name=FLOOR, loads=tuple(native)),
        ),
        config=config,
        concurrency=(len(CHANNELS),),
    )


def _windows(tensor: str, seed: int = 0, channel: str | None = None) -> Sequence[Arrays]:
    """Requests with one window each; raw telemetry has a drop-out."""
    import numpy as np

    from builder.families.anomaly.models.detector import telemetry_window

    rng = np.random.default_rng(seed)
    requests: list[Arrays] = []
    for _ in range(DISTINCT):
        request: Arrays = {tensor: telemetry_window(WINDOW, rng, dropout=tensor == "telemetry")}
        if channel is not None:
            request["channel"] = np.array([channel.encode()], object)
        requests.append(request)
    return requests
