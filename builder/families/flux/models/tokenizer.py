"""`flux_tokenizer` and `flux_tokenizer_dev`: prompts to the token ids of both text encoders."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.flux.models.text_encoders import CLIP_LENGTH
from builder.families.flux.models.variants import LIBRARIES, Variant, variants
from builder.stage import Arrays, OnnxSource, Shape, Stage, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

_CODE = tuple(f"builder.families.flux.{module}" for module in ("tokenizer_graph", "nodes"))

_PROMPTS = (
    "a lighthouse on a rocky shore at dusk, oil on canvas",
    "",
    "Ein Fachwerkhaus im Schnee -- it's 1890's, ISN'T it?",
    "  two\tspaces,\n a line break  ",
    "猫が窓辺で眠っている 🐈‍⬛ naïve café, 50% off!",
    "a very long prompt, with many words, that goes on and on " * 40,
)


def stages(config: Config) -> Iterable[Stage]:
    """One per variant: they pad T5's ids to different lengths."""
    return tuple(stage(variant) for variant in variants(config))


def name_of(variant: Variant) -> str:
    """Name of the stage of a variant."""
    return f"flux_tokenizer{variant.suffix}"


def stage(variant: Variant) -> Stage:
    """Both tokenizers of a variant as one graph; long prompts are cut, short ones padded."""

    def build() -> "onnx.ModelProto":
        from builder.families.flux.tokenizer_graph import tokenizer_model

        return tokenizer_model(variant.folder(), variant.text_length)

    def reference(arrays: Arrays) -> Arrays:
        from builder.families.flux.tokenizer_graph import tokenizer_reference

        return tokenizer_reference(variant.folder(), variant.text_length)(arrays)

    return Stage(
        name=name_of(variant),
        family="flux",
        inputs=(Tensor("prompt", "BYTES", ("B", 1)),),
        outputs=(
            Tensor("clip_ids", "INT64", ("B", CLIP_LENGTH)),
            Tensor("t5_ids", "INT64", ("B", variant.text_length)),
        ),
        source=OnnxSource(
            build=build,
            reference=reference,
            files=variant.files("tokenizer", "tokenizer_2"),
            code=variant.code(*_CODE),
            libraries=(*LIBRARIES, "onnxruntime-extensions"),
            settings=variant.settings(text_length=variant.text_length),
        ),
        example=example,
        shapes=({"B": len(_PROMPTS)}, {"B": 1}, {"B": 3}),
        tolerance=Tolerance(atol=0.0),
        engines=("onnxruntime",),
        max_batch_size=8,
        metadata={"text_length": str(variant.text_length)},
    )


def example(shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Prompts of several scripts, empty and over-long ones among them."""
    import numpy as np

    chosen = rng.permutation(len(_PROMPTS))[: shape["B"]]
    return {"prompt": np.array([[_PROMPTS[i].encode()] for i in chosen], dtype=object)}
