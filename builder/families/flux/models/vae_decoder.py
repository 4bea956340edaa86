"""`vae_decoder`: latents to an image. Every variant has the same one."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.config import Config
from builder.families.flux.models.variants import LIBRARIES, Variant, variants
from builder.families.flux.stored import stored_weights
from builder.stage import Arrays, Range, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

NAME = "vae_decoder"


def stages(config: Config) -> Iterable[Stage]:
    """The decoder of the first variant: it is the same in all of them."""
    return (stage(variants(config)[0]),)


def stage(variant: Variant) -> Stage:
    """The decoder; `H` and `W` are `h` and `w` in pixels."""
    widths, options = variant.widths, variant.options

    def wrap(vae: Any) -> "torch.nn.Module":
        from builder.families.flux.networks.vae_decoder import VaeDecoder

        return VaeDecoder(vae)

    def load() -> "torch.nn.Module":
        return wrap(variant.component("vae"))

    def shape(batch: int, h: int, w: int) -> Shape:
        return {"B": batch, "h": h, "w": w, "H": h * widths.latent, "W": w * widths.latent}

    side = Range(2, options.default_size // widths.latent, options.max_size // widths.latent)
    return Stage(
        name=NAME,
        family="flux",
        inputs=(Tensor("latents", "FP32", ("B", widths.channels, "h", "w")),),
        outputs=(Tensor("image", "UINT8", ("B", "H", "W", 3)),),
        source=TorchSource(
            load=load,
            stored=stored_weights(variant.folder, "vae", wrap),
            files=variant.files("vae"),
            code=variant.code("builder.families.flux.networks.vae_decoder"),
            libraries=LIBRARIES,
            settings=variant.settings(),
        ),
        example=partial(example, widths.channels),
        shapes=(shape(2, 4, 6), shape(1, 12, 8), shape(4, 4, 4), shape(1, 2, 2)),
        tolerance=Tolerance(levels=1),  # values that lie between two levels may round either way
        profile={"B": Range(1, 1, 4), "h": side, "w": side},
        max_batch_size=4,
    )


def example(channels: int, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Normal latents."""
    import numpy as np

    size = (shape["B"], channels, shape["h"], shape["w"])
    return {"latents": rng.standard_normal(size, dtype=np.float32)}
