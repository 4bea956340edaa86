"""The two graphs of image-to-image that are built by hand: checking the image, adding the noise.

Flow matching mixes linearly: where a fraction sigma of the way is noise, latents are
(1 - sigma) * image + sigma * noise. Denoising starts there, with the first sigma of the schedule,
which the strength decides; see `schedule.even_sigmas`. As in `prepare_graph`, every value is equal
to that of NumPy to the bit.
"""

from typing import TYPE_CHECKING

from builder.families.flux.nodes import Nodes
from builder.families.flux.options import PIXELS_PER_PATCH, size_problem
from builder.families.flux.prepare_graph import (
    LATENT,
    PreparePlan,
    checked_guidance,
    checked_size,
    noise_nodes,
    sigma_nodes,
    start_model,
)
from builder.stage import Arrays

if TYPE_CHECKING:
    import onnx

BAD_STRENGTH = "strength must be a number above 0 and not above 1"


def image_model(name: str, max_size: int) -> "onnx.ModelProto":
    """The check of an image's size.

    Input `name` UINT8 [B,H,W,3]; output checked_image, the same.
    """
    import numpy as np
    from onnx import TensorProto, helper

    g = Nodes()
    column = g.constant([1, 1], np.int64)
    sizes = [
        checked_size(
            g,
            g.add("Reshape", g.add("Shape", name, start=axis, end=axis + 1), column),
            f"the image's {side}",
            max_size,
        )
        for axis, side in ((1, "height"), (2, "width"))
    ]
    batch = g.add("Shape", name, start=0, end=1)
    shape = g.add("Concat", batch, *sizes, g.constant([3], np.int64), axis=0)
    g.add("Reshape", name, shape, output="checked_image")
    dims: list[int | str | None] = ["B", "H", "W", 3]
    value = helper.make_tensor_value_info
    return g.model(
        "flux_image",
        [value(name, TensorProto.UINT8, dims)],
        [value("checked_image", TensorProto.UINT8, dims)],
    )


def image_reference(name: str, max_size: int, arrays: Arrays) -> Arrays:
    """The same in NumPy.

    Raises:
        ValueError: A size that the graph refuses, too.
    """
    image = arrays[name]
    if problem := size_problem(image.shape[1], image.shape[2], max_size):
        raise ValueError(problem)
    return {"checked_image": image}


def image_prepare_model(plan: PreparePlan) -> "onnx.ModelProto":
    """From an image's latents to what denoising starts with.

    Inputs: seed INT64 [B,1]; strength FP32 [B,1]; image_latents FP32 [B,channels,h,w]; guidance
    FP32 [B,1] if the plan is guided.

    Outputs: latents FP32 [B,channels,h,w], sigmas FP32 [B,steps+1], step INT64 [B,1] (zeros), and
    checked_guidance FP32 [B,1] if the plan is guided.
    """
    import numpy as np
    from onnx import TensorProto, helper

    g = Nodes()
    rows = g.add("Shape", "image_latents", start=2, end=3)
    columns = g.add("Shape", "image_latents", start=3, end=4)
    strength = _checked_strength(g)
    # One rounding, from FP64 to FP32, as in `even_sigmas`.
    spaced = g.constant(np.linspace(1.0, 1 / plan.steps, plan.steps), np.float64)
    even = g.add(
        "Cast",
        g.add("Mul", g.add("Cast", strength, to=TensorProto.DOUBLE), spaced),
        to=TensorProto.FLOAT,
    )
    falling = sigma_nodes(g, plan, even, g.add("Mul", rows, columns))
    zeros = g.add("Mul", strength, g.constant(0.0, np.float32))
    sigmas = g.add("Concat", falling, zeros, axis=1, output="sigmas")

    first = g.add("Gather", sigmas, g.constant([0], np.int64), axis=1)
    first = g.add("Reshape", first, g.constant([-1, 1, 1, 1], np.int64))
    noise = noise_nodes(g, plan.channels, rows, columns)
    rest = g.add("Sub", g.constant(1.0, np.float32), first)
    g.add(
        "Add",
        g.add("Mul", first, noise),
        g.add("Mul", rest, "image_latents"),
        output="latents",
    )
    value = helper.make_tensor_value_info
    inputs = [
        value("seed", TensorProto.INT64, ["B", 1]),
        value("strength", TensorProto.FLOAT, ["B", 1]),
        value("image_latents", TensorProto.FLOAT, ["B", plan.channels, "h", "w"]),
    ]
    return start_model(g, plan, "flux_img2img_prepare", inputs)


def image_prepare_reference(plan: PreparePlan, arrays: Arrays) -> Arrays:
    """The same in NumPy.

    Raises:
        ValueError: A strength or guidance that the graph refuses, too.
    """
    import numpy as np

    from builder.families.flux.noise import normal

    image, strength = arrays["image_latents"], arrays["strength"][:, 0]
    if not ((strength > 0) & (strength <= 1)).all():
        raise ValueError(BAD_STRENGTH)
    batch, channels, rows, columns = image.shape
    tokens = rows * columns // (PIXELS_PER_PATCH // LATENT) ** 2
    sigmas = np.stack([plan.schedule.sigmas(plan.steps, tokens, float(s)) for s in strength])
    noise = normal(arrays["seed"][:, 0], channels * rows * columns).reshape(image.shape)
    first = sigmas[:, :1, None, None]
    results: Arrays = {
        "latents": first * noise + (np.float32(1.0) - first) * image,
        "sigmas": sigmas,
        "step": np.zeros((batch, 1), np.int64),
    }
    if plan.guided:
        results["checked_guidance"] = checked_guidance(arrays["guidance"])
    return results


def _checked_strength(g: Nodes) -> str:
    """The input `strength`; NaN fails both comparisons."""
    import numpy as np
    from onnx import TensorProto

    above = g.add("Greater", "strength", g.constant(0.0, np.float32))
    below = g.add("LessOrEqual", "strength", g.constant(1.0, np.float32))
    number = g.add("Cast", g.add("And", above, below), to=TensorProto.INT32)
    good = g.add("Cast", g.add("ReduceMin", number, keepdims=0), to=TensorProto.BOOL)
    zero = g.require(good, g.constant(0, np.int64), BAD_STRENGTH)
    return g.add("Add", "strength", g.add("Cast", zero, to=TensorProto.FLOAT))
