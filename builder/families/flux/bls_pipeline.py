"""The text-to-image pipeline that calls its networks as other models of the server (BLS).

What `flux_bls` and `flux_bls_stream` share. Tokenisation is that of Hugging Face, noise and
sigmas those of the reference; the four networks are python-backend models of their own, whose
batchers see the calls of all requests, whatever step each of them is at.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import BuilderError, UsageError
from builder.families.flux.models.variants import Variant
from builder.families.flux.options import check_steps, size_problem
from builder.families.flux.prepare_graph import prepare_plan, prepare_reference
from builder.families.flux.tokenizer_graph import tokenizer_reference
from builder.serving.twin_tasks import Talk, call
from builder.stage import Arrays, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP, T5 = "clip_encoder_py", "t5_encoder_py"
TRANSFORMER, VAE = "dit_transformer_py", "vae_decoder_py"

PROMPT = Tensor("prompt", "BYTES", ("B", 1))
IMAGE = Tensor("image", "UINT8", ("B", "H", "W", 3))
STEP = Tensor("step", "INT64", ("B", 1))
FINAL = Tensor("final", "BOOL", ("B", 1))
"""What `flux_bls_stream` says of each of its responses."""

Preview = Callable[[int, "NDArray[np.uint8]"], None]
"""Gets the number of a step, from 1, and what the images will be like as far as that step can
tell: UINT8 [B,H,W,3]."""


def optional_inputs(variant: Variant) -> tuple[Tensor, ...]:
    """What a request may leave out, other than in the native pipeline."""
    names = ("seed", "height", "width", "steps")
    guidance = (Tensor("guidance", "FP32", ("B", 1)),) if variant.guided else ()
    return (*(Tensor(name, "INT64", ("B", 1)) for name in names), *guidance)


@dataclass(frozen=True, slots=True)
class Order:
    """One request, checked.

    Attributes:
        values: prompt, seed, height and width (and guidance), complete: [B,1] each.
        steps: Denoising steps.
    """

    values: Arrays
    steps: int


def expected_end(
    before: "NDArray[np.float32]", after: "NDArray[np.float32]", sigmas: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    """Where the latents would end if the rest of the way were as straight as this step.

    The latents themselves are still full of noise; this is the network's present idea of the
    image. It is x - sigma * velocity, and the velocity is that of the step.

    Args:
        before: Latents before the step, FP32 [B,C,h,w].
        after: Latents after it.
        sigmas: FP32 [B,2], before and after it; they differ.
    """
    sigma, sigma_next = sigmas[:, :1, None, None], sigmas[:, 1:, None, None]
    end: NDArray[np.float32] = before + sigma / (sigma - sigma_next) * (after - before)
    return end


class BlsPipeline:
    """The pipeline of a variant.

    Args:
        pb_utils: `triton_python_backend_utils` or its stand-in.

    Raises:
        CheckpointError: The checkpoint is missing, incomplete or damaged.
    """

    def __init__(self, pb_utils: Any, variant: Variant):
        self._pb = pb_utils
        self.variant = variant
        self._folder = variant.folder()
        self._tokenize = tokenizer_reference(self._folder, variant.text_length)
        self._plan = functools.lru_cache(
            lambda steps: prepare_plan(self._folder, steps, variant.options)
        )
        self._plan(variant.options.step_count(variant.name))
        # Tokenisation and noise: off the event loop, and never two at a time, for the
        # tokenizers may not be used by two threads.
        self._work = ThreadPoolExecutor(1, "prepare")

    def order(self, arrays: Arrays) -> Order:
        """A request with its defaults.

        Raises:
            UsageError: It asks for something that there is not.
        """
        options, count = self.variant.options, len(arrays["prompt"])
        defaults: dict[str, int | float] = {
            "seed": 0,
            "height": options.default_size,
            "width": options.default_size,
            "steps": options.step_count(self.variant.name),
        }
        if self.variant.guided:
            defaults["guidance"] = options.default_guidance
        values = dict(arrays)
        for name, value in defaults.items():
            dtype = np.float32 if name == "guidance" else np.int64
            values.setdefault(name, np.full((count, 1), value, dtype))
        for number, prompt in enumerate(values["prompt"][:, 0]):
            try:
                prompt.decode()
            except UnicodeDecodeError as error:
                raise UsageError(f"prompt {number} is not UTF-8: {error}") from error
        for name in ("height", "width", "steps"):
            if (values[name] != values[name][0]).any():
                raise UsageError(f"every image of a request must have the same {name}")
        height, width = int(values["height"][0, 0]), int(values["width"][0, 0])
        if problem := size_problem(height, width, options.max_size):
            raise UsageError(problem)
        try:
            steps = check_steps(int(values.pop("steps")[0, 0]), "steps")
        except BuilderError as error:
            raise UsageError(error.what, hint=error.hint) from error
        return Order(values, steps)

    async def paint(
        self, arrays: Arrays, talk: Talk, preview: Preview | None = None
    ) -> "NDArray[np.uint8]":
        """The images of one request: UINT8 [B,height,width,3].

        Args:
            preview: Is shown the images after each step but the last.

        Raises:
            UsageError: The request asks for something that there is not.
            AbandonedError: The client has gone; noticed between two calls.
            CalledModelError: A network has failed, or is not served.
        """
        order = self.order(arrays)
        in_background = functools.partial(asyncio.get_running_loop().run_in_executor, self._work)
        ids = await in_background(self._tokenize, order.values)
        (embeds, pooled), start = await asyncio.gather(
            self._encode(ids), in_background(self._prepare, order)
        )
        fixed = [self._tensor("sigmas", start["sigmas"]), embeds, pooled]
        if self.variant.guided:
            fixed.append(self._tensor("guidance", start["checked_guidance"]))
        latents, step = start["latents"], start["step"]
        for number in range(order.steps):
            talk.stop_if_cancelled()
            state = [self._tensor("latents", latents), self._tensor("step", step)]
            result = await self._call(TRANSFORMER, [*state, *fixed], "next_latents", "next_step")
            before, (latents, step) = latents, (tensor.as_numpy() for tensor in result)
            if preview is not None and number + 1 < order.steps:
                sigmas = start["sigmas"][:, number : number + 2]
                preview(number + 1, await self._decode(expected_end(before, latents, sigmas)))
        talk.stop_if_cancelled()
        return await self._decode(latents)

    def close(self) -> None:
        """Let go of the worker thread."""
        self._work.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, order: Order) -> Arrays:
        try:
            return prepare_reference(self._plan(order.steps), order.values)
        except ValueError as error:
            raise UsageError(str(error)) from error

    async def _encode(self, ids: Arrays) -> tuple[Any, Any]:
        """Both encoders at once; the tensors have the names that the transformer gives them."""
        t5, clip = await asyncio.gather(
            self._call(T5, [self._tensor("input_ids", ids["t5_ids"])], "prompt_embeds"),
            self._call(CLIP, [self._tensor("input_ids", ids["clip_ids"])], "pooled_prompt_embeds"),
        )
        return t5[0], clip[0]

    async def _decode(self, latents: "NDArray[np.float32]") -> "NDArray[np.uint8]":
        (image,) = await self._call(VAE, [self._tensor("latents", latents)], IMAGE.name)
        pixels: NDArray[np.uint8] = image.as_numpy()
        return pixels

    async def _call(self, model: str, inputs: Sequence[Any], *outputs: str) -> list[Any]:
        found = await call(self._pb, model, inputs, outputs)
        return [found[name] for name in outputs]

    def _tensor(self, name: str, array: "NDArray[Any]") -> Any:
        return self._pb.Tensor(name, array)
