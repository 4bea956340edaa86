"""`flux_prepare`: seed and image size to noise and sigmas; the one place that knows the steps.

Image-to-image has its own, `flux_img2img_prepare`, which mixes the noise with the image's latents.
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.families.flux.models.text_encoders import CLIP_LENGTH
from builder.families.flux.options import PIXELS_PER_PATCH
from builder.stage import Arrays, OnnxSource, Range, Shape, Stage, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from builder.families.flux.prepare_graph import PreparePlan

AFTER = "clip_ids"
"""An input that is not read: it makes the step wait for the tokenizer. Only so has the ensemble
one first step. With several, the server can lock up for ever when one of them fails: the thread
that answers holds the ensemble and wants the gRPC request, the thread that still starts the
others holds the request and wants the ensemble (seen in Triton 2.51)."""

_CODE = tuple(
    f"builder.families.flux.{module}"
    for module in (
        *("prepare_graph", "noise", "noise_graph", "nodes", "schedule", "options"),
        "models.prepare",
    )
)
_IMAGE_CODE = ("builder.families.flux.img2img_graph",)


def stages(config: Config) -> Iterable[Stage]:
    """One per variant and number of steps."""
    alike = {(s.prepare, s.variant.name, s.steps, s.image): s for s in specs(config)}
    return tuple((image_stage if s.image else stage)(s) for s in alike.values())


def stage(spec: PipelineSpec) -> Stage:
    """The noise, sigmas and first step of a pipeline; sizes and guidance are checked here.

    Height and width are values, so requests are not batched together: with others their images
    could have other sizes. The token ids are not read, see `AFTER`.

    Clients have to send every input: `builder generate` has the defaults, the server has none. An
    ensemble passes on that an input was left out if each step that takes it declares it optional,
    but the official onnxruntime backend refuses to load a model that has an optional input and a
    max_batch_size above 0 ("is not supported for models that support batching", `ValidateInputs`
    in its onnxruntime.cc), and a default, which is an initialiser there, has one batch size only.
    """
    variant = spec.variant
    channels, latent = variant.widths.channels, variant.widths.latent

    def shape(batch: int, height: int, width: int) -> Shape:
        return {"B": batch, "h": height // latent, "w": width // latent}

    inputs = [Tensor(name, "INT64", ("B", 1)) for name in ("seed", "height", "width")]
    outputs = [
        Tensor("latents", "FP32", ("B", channels, "h", "w")),
        Tensor("sigmas", "FP32", ("B", spec.steps + 1)),
        Tensor("step", "INT64", ("B", 1)),
    ]
    if variant.guided:
        inputs.append(Tensor("guidance", "FP32", ("B", 1)))
        outputs.append(Tensor("checked_guidance", "FP32", ("B", 1)))
    inputs.append(Tensor(AFTER, "INT64", ("B", CLIP_LENGTH)))
    return Stage(
        name=spec.prepare,
        family="flux",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        source=_source(spec),
        example=partial(example, spec),
        shapes=(shape(1, 64, 96), shape(2, 128, 32), shape(1, 256, 256), shape(4, 16, 16)),
        tolerance=Tolerance(atol=0.0),
        engines=("onnxruntime",),  # TensorRT has no bitwise operators
        max_batch_size=8,
        serving={"dynamic_batching": False, "warmup": False},  # an image of 0 by 0 is refused
        metadata={"steps": str(spec.steps), "multiple_of": str(PIXELS_PER_PATCH)},
    )


def image_stage(spec: PipelineSpec) -> Stage:
    """What `stage` is, for a pipeline that starts with an image: strength in place of the size."""
    variant, options = spec.variant, spec.variant.options
    image = ("B", variant.widths.channels, "h", "w")
    inputs = [
        Tensor("seed", "INT64", ("B", 1)),
        Tensor("strength", "FP32", ("B", 1)),
        Tensor("image_latents", "FP32", image),
    ]
    outputs = [
        Tensor("latents", "FP32", image),
        Tensor("sigmas", "FP32", ("B", spec.steps + 1)),
        Tensor("step", "INT64", ("B", 1)),
    ]
    if variant.guided:
        inputs.append(Tensor("guidance", "FP32", ("B", 1)))
        outputs.append(Tensor("checked_guidance", "FP32", ("B", 1)))
    inputs.append(Tensor(AFTER, "INT64", ("B", CLIP_LENGTH)))
    sizes = ((1, 8, 12), (2, 16, 4), (1, 32, 32), (4, 2, 2))
    usual, most = (s // variant.widths.latent for s in (options.default_size, options.max_size))
    side = Range(2, usual, most)
    return Stage(
        name=spec.prepare,
        family="flux",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        source=_source(spec),
        example=partial(image_example, spec),
        shapes=tuple({"B": batch, "h": h, "w": w} for batch, h, w in sizes),
        tolerance=Tolerance(atol=0.0),
        profile={"B": Range(1, 1, 8), "h": side, "w": side},
        engines=("onnxruntime",),
        max_batch_size=8,
        serving={"warmup": False},  # a strength of 0 is refused
        metadata={"steps": str(spec.steps)},
    )


def _source(spec: PipelineSpec) -> OnnxSource:
    variant = spec.variant

    def plan() -> "PreparePlan":
        from builder.families.flux.prepare_graph import prepare_plan

        return prepare_plan(variant.folder(), spec.steps, variant.options)

    def build() -> "onnx.ModelProto":
        from onnx import TensorProto, helper

        from builder.families.flux.img2img_graph import image_prepare_model
        from builder.families.flux.prepare_graph import prepare_model

        model = (image_prepare_model if spec.image else prepare_model)(plan())
        model.graph.input.append(
            helper.make_tensor_value_info(AFTER, TensorProto.INT64, ["B", CLIP_LENGTH])
        )
        return model

    def reference(arrays: Arrays) -> Arrays:
        from builder.families.flux.img2img_graph import image_prepare_reference
        from builder.families.flux.prepare_graph import prepare_reference

        judge = image_prepare_reference if spec.image else prepare_reference
        return judge(plan(), arrays)

    return OnnxSource(
        build=build,
        reference=reference,
        files=variant.files("scheduler"),
        code=variant.code(*_CODE, *(_IMAGE_CODE if spec.image else ())),
        settings=variant.settings(steps=spec.steps, max_size=variant.options.max_size),
    )


def example(spec: PipelineSpec, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Seeds of any size, sign included."""
    import numpy as np

    batch, latent = shape["B"], spec.variant.widths.latent
    arrays: Arrays = {
        "seed": rng.integers(-(2**63), 2**63 - 1, (batch, 1)),
        "height": np.full((batch, 1), shape["h"] * latent, np.int64),
        "width": np.full((batch, 1), shape["w"] * latent, np.int64),
        AFTER: np.zeros((batch, CLIP_LENGTH), np.int64),
    }
    if spec.variant.guided:
        arrays["guidance"] = rng.uniform(1.0, 7.0, (batch, 1)).astype(np.float32)
    return arrays


def image_example(spec: PipelineSpec, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Latents, and a strength for each."""
    import numpy as np

    batch = shape["B"]
    size = (batch, spec.variant.widths.channels, shape["h"], shape["w"])
    arrays: Arrays = {
        "seed": rng.integers(-(2**63), 2**63 - 1, (batch, 1)),
        "strength": rng.uniform(0.05, 1.0, (batch, 1)).astype(np.float32),
        "image_latents": rng.standard_normal(size, dtype=np.float32),
        AFTER: np.zeros((batch, CLIP_LENGTH), np.int64),
    }
    if spec.variant.guided:
        arrays["guidance"] = rng.uniform(1.0, 7.0, (batch, 1)).astype(np.float32)
    return arrays
