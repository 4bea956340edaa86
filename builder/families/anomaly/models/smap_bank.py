"""`smap_bank`: the detectors of all 27 channels in one model, for requests about many channels.

It is not built by default: a model per channel can be loaded, replaced and rolled back by itself.
`[anomaly] bank = true` in builder.toml adds it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import CHANNEL_NAMES, FEATURES
from builder.families.anomaly.models import omnianomaly
from builder.families.anomaly.models.detector import telemetry_window
from builder.families.anomaly.options import AnomalyOptions
from builder.stage import Arrays, OnnxSource, Shape, Stage, Tensor, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import onnx

NAME = "smap_bank"
MAX_BATCH = 32


def stages(config: Config) -> Iterable[Stage]:
    """The bank, where it is switched on."""
    return (stage(config),) if config.section("anomaly", AnomalyOptions).bank else ()


def stage(config: Config) -> Stage:
    """The bank of the configured weights.

    Input `channel` is the position in `channels.CHANNEL_NAMES`, of every sample of the batch.
    """
    singles = tuple(omnianomaly.stages(config))
    sources = [s.source for s in singles if isinstance(s.source, TorchSource)]

    def build() -> "onnx.ModelProto":
        from builder.export.trace import trace
        from builder.export.weights import swap_weights
        from builder.families.anomaly.bank_graph import bank_of

        modules = [source.load() for source in sources]
        graph = trace(singles[0], modules[0], optimize=False)
        return bank_of(
            [swap_weights(graph, m.state_dict(), where=f"stage {NAME}") for m in modules], FEATURES
        )

    def reference(arrays: Arrays) -> Arrays:
        import numpy as np

        from builder.families.anomaly.networks.reference import answer

        rows = [
            answer(singles[int(which)], window)
            for window, (which,) in zip(arrays["input_data"], arrays["channel"], strict=True)
        ]
        return {t.name: np.stack([row[t.name] for row in rows]) for t in singles[0].outputs}

    return Stage(
        name=NAME,
        family="anomaly",
        inputs=(
            Tensor("input_data", "FP32", ("B", "T", FEATURES)),
            Tensor("channel", "INT64", ("B", 1)),
        ),
        outputs=tuple(Tensor(t.name, t.dtype, ("B", *t.dims)) for t in singles[0].outputs),
        source=OnnxSource(
            build=build,
            reference=reference,
            files=tuple(file for s in sources for file in s.files),
            code=(*sources[0].code, "builder.families.anomaly.bank_graph", __name__),
            libraries=("onnxruntime", "torch", "onnxscript"),
        ),
        example=example,
        shapes=(
            {"B": 4, "T": 100},
            {"B": len(singles), "T": 33},
            {"B": 1, "T": 1},
            {"B": 2, "T": 0},
        ),
        engines=("onnxruntime",),
        max_batch_size=MAX_BATCH,
        metadata={"channels": ",".join(CHANNEL_NAMES), "spacecraft": "SMAP"},
    )


def example(shape: Shape, generator: "np.random.Generator") -> Arrays:
    """Windows of different channels."""
    import numpy as np

    windows = [telemetry_window(shape["T"], generator) for _ in range(shape["B"])]
    channels = generator.permutation(len(CHANNEL_NAMES))[: shape["B"], None]
    return {"input_data": np.stack(windows), "channel": channels.astype(np.int64)}
