"""`flux_image`: the check of the image that image-to-image starts with."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.flux.models.prepare import AFTER
from builder.families.flux.models.text_encoders import CLIP_LENGTH
from builder.families.flux.models.variants import variants
from builder.families.flux.options import PIXELS_PER_PATCH, FluxOptions
from builder.stage import Arrays, OnnxSource, Range, Shape, Stage, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

NAME = "flux_image"
INPUT = "init_image"
"""The pipelines' input; their output is called `image`."""

_CODE = tuple(
    f"builder.families.flux.{module}"
    for module in ("img2img_graph", "prepare_graph", "nodes", "options", "models.image")
)


def stages(config: Config) -> Iterable[Stage]:
    """One for all variants."""
    return (stage(variants(config)[0].options),)


def stage(options: FluxOptions) -> Stage:
    """A wrong size is refused with a message, before an engine trips over it.

    It makes the request wait for the tokenizer, too: the ensemble has one first step, see
    `prepare.AFTER`.
    """

    def build() -> "onnx.ModelProto":
        from onnx import TensorProto, helper

        from builder.families.flux.img2img_graph import image_model

        model = image_model(INPUT, options.max_size)
        model.graph.input.append(
            helper.make_tensor_value_info(AFTER, TensorProto.INT64, ["B", CLIP_LENGTH])
        )
        return model

    def reference(arrays: Arrays) -> Arrays:
        from builder.families.flux.img2img_graph import image_reference

        return image_reference(INPUT, options.max_size, arrays)

    side = Range(PIXELS_PER_PATCH, options.default_size, options.max_size)
    return Stage(
        name=NAME,
        family="flux",
        inputs=(
            Tensor(INPUT, "UINT8", ("B", "H", "W", 3)),
            Tensor(AFTER, "INT64", ("B", CLIP_LENGTH)),
        ),
        outputs=(Tensor("checked_image", "UINT8", ("B", "H", "W", 3)),),
        source=OnnxSource(
            build=build,
            reference=reference,
            code=_CODE,
            settings={"max_size": str(options.max_size)},
        ),
        example=example,
        shapes=({"B": 2, "H": 64, "W": 96}, {"B": 1, "H": 16, "W": 48}),
        tolerance=Tolerance(atol=0.0),
        profile={"B": Range(1, 1, 4), "H": side, "W": side},
        engines=("onnxruntime",),
        max_batch_size=4,
        metadata={"multiple_of": str(PIXELS_PER_PATCH)},
    )


def example(shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Images with large shapes and noise."""
    import numpy as np

    return {
        INPUT: example_image(shape["B"], shape["H"], shape["W"], rng),
        AFTER: np.zeros((shape["B"], CLIP_LENGTH), np.int64),
    }


def example_image(
    batch: int, height: int, width: int, rng: "np.random.Generator"
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """UINT8 [B,H,W,3]: a slope in each colour, an edge, and some noise."""
    import numpy as np

    y, x = np.mgrid[0.0 : 1.0 : height * 1j, 0.0 : 1.0 : width * 1j]
    slopes = rng.uniform(-1, 1, (batch, 2, 1, 1, 3))
    image = 0.5 + 0.4 * (slopes[:, 0] * y[..., None] + slopes[:, 1] * x[..., None])
    image += 0.2 * (x > y)[..., None] + 0.05 * rng.standard_normal(image.shape)
    levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    levels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return levels
