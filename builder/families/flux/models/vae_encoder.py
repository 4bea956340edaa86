"""`vae_encoder`: an image to latents, for image-to-image. Every variant has the same one."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from builder.config import Config
from builder.families.flux.models.image import example_image
from builder.families.flux.models.variants import LIBRARIES, Variant, variants
from builder.families.flux.options import PIXELS_PER_PATCH
from builder.families.flux.stored import stored_weights
from builder.stage import Arrays, Range, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

NAME = "vae_encoder"


def stages(config: Config) -> Iterable[Stage]:
    """The encoder of the first variant: it is the same in all of them."""
    return (stage(variants(config)[0]),)


def stage(variant: Variant) -> Stage:
    """The encoder; `h` and `w` are `H` and `W` in latents."""
    widths, options = variant.widths, variant.options

    def wrap(vae: Any) -> "torch.nn.Module":
        from builder.families.flux.networks.vae_encoder import VaeEncoder

        return VaeEncoder(vae)

    def load() -> "torch.nn.Module":
        return wrap(variant.component("vae"))

    def shape(batch: int, h: int, w: int) -> Shape:
        return {"B": batch, "h": h, "w": w, "H": h * widths.latent, "W": w * widths.latent}

    side = Range(PIXELS_PER_PATCH, options.default_size, options.max_size)
    return Stage(
        name=NAME,
        family="flux",
        inputs=(Tensor("image", "UINT8", ("B", "H", "W", 3)),),
        outputs=(Tensor("image_latents", "FP32", ("B", widths.channels, "h", "w")),),
        source=TorchSource(
            load=load,
            stored=stored_weights(variant.folder, "vae", wrap),
            files=variant.files("vae"),
            code=variant.code("builder.families.flux.networks.vae_encoder"),
            libraries=LIBRARIES,
            settings=variant.settings(),
        ),
        example=example,
        shapes=(shape(2, 4, 6), shape(1, 12, 8), shape(4, 4, 4), shape(1, 2, 2)),
        tolerance=Tolerance(atol=5e-6),
        profile={"B": Range(1, 1, 4), "H": side, "W": side},
        max_batch_size=4,
    )


def example(shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Images with large shapes and noise."""
    return {"image": example_image(shape["B"], shape["H"], shape["W"], rng)}
