"""FLUX.1 in plain PyTorch: the judge of every stage and pipeline of this family.

Diffusers' networks and the steps of its `FluxPipeline` and `FluxImg2ImgPipeline`, with the noise
of `noise` in place of torch's, one prompt and one seed per image, and every image at the same step.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from builder.errors import UsageError
from builder.families.flux.checkpoint import component_config, variant_of
from builder.families.flux.lora import Lora
from builder.families.flux.lora_fuse import fused_component
from builder.families.flux.noise import normal
from builder.families.flux.options import STEPS, TEXT_LENGTH, size_problem
from builder.families.flux.schedule import Schedule
from builder.families.flux.tokenizer_graph import tokenizer_reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRAIN_TIMESTEPS = 1000.0


class FluxReference:
    """The pipelines of a checkpoint; components load when they are first used.

    Args:
        folder: A FLUX.1 checkpoint in the layout of diffusers.
        max_sequence_length: T5 tokens per prompt; by default 256 (schnell) or 512 (dev).
        max_size: Largest height and width.
        dtype: Data type of the networks; latents are always FP32.
        loras: LoRA files that are fused into the networks.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_sequence_length: int | None = None,
        max_size: int = 2048,
        dtype: torch.dtype = torch.float32,
        loras: Sequence[Lora] = (),
    ):
        self.folder = folder
        self.variant = variant_of(folder)
        self.text_length = max_sequence_length or TEXT_LENGTH[self.variant]
        self.max_size = max_size
        self.dtype = dtype
        self.loras = tuple(loras)
        self.schedule = Schedule.from_config(component_config(folder, "scheduler"))
        self._components: dict[str, Any] = {}

    @property
    def guided(self) -> bool:
        """Whether the transformer takes a guidance scale."""
        return self.variant == "dev"

    def component(self, name: str) -> Any:
        """A component, loaded once."""
        if name not in self._components:
            self._components[name] = fused_component(self.folder, name, self.loras, self.dtype)
        return self._components[name]

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids for CLIP, INT64 [B,77], and for T5, INT64 [B,S]."""
        if "tokenizers" not in self._components:
            run = tokenizer_reference(self.folder, self.text_length)
            self._components["tokenizers"] = run
        ids = self._components["tokenizers"]({"prompt": np.array(prompts, object)[:, None]})
        return torch.from_numpy(ids["clip_ids"]), torch.from_numpy(ids["t5_ids"])

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings: of each T5 token [B,S,width], and of each prompt by CLIP [B,width]."""
        clip_ids, t5_ids = self.tokenize(prompts)
        pooled = self.component("text_encoder")(clip_ids).pooler_output
        embeds = self.component("text_encoder_2")(t5_ids).last_hidden_state
        return embeds.to(self.dtype), pooled.to(self.dtype)

    def noise(self, seeds: Sequence[int], height: int, width: int) -> torch.Tensor:
        """FP32 [B,C,height/8,width/8]."""
        config = component_config(self.folder, "transformer")
        channels, rows, columns = int(config["in_channels"]) // 4, height // 8, width // 8
        values = normal(np.array(seeds, np.int64), channels * rows * columns)
        return torch.from_numpy(values).reshape(len(seeds), channels, rows, columns)

    def sigmas(self, steps: int, height: int, width: int, strength: float = 1.0) -> torch.Tensor:
        """FP32 [steps+1]."""
        tokens = (height // 16) * (width // 16)
        return torch.from_numpy(self.schedule.sigmas(steps, tokens, strength))

    def prepare(
        self, seeds: Sequence[int], height: int, width: int, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Initial latents, FP32 [B,C,height/8,width/8], and sigmas, FP32 [steps+1]."""
        return self.noise(seeds, height, width), self.sigmas(steps, height, width)

    @torch.inference_mode()
    def encode_image(self, images: "NDArray[np.uint8]") -> torch.Tensor:
        """Images, UINT8 [B,H,W,3], to latents, FP32 [B,C,h,w]: the mean of the posterior."""
        vae = self.component("vae")
        pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
        latents: torch.Tensor = vae.encode(pixels.to(self.dtype)).latent_dist.mode().float()
        latents = latents - (vae.config.shift_factor or 0.0)
        return latents * float(vae.config.scaling_factor)

    @torch.inference_mode()
    def denoise(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        embeds: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor | None = None,
        *,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """All steps.

        Args:
            latents: FP32 [B,C,h,w].
            sigmas: FP32 [steps+1].
            embeds: [B,S,width], of T5.
            pooled: [B,width], of CLIP.
            guidance: FP32 [B], for a transformer that takes it.
            on_step: Called after each step with its number and the latents.
        """
        transformer = self.component("transformer")
        rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
        packed = pack(latents)
        ids = {
            "img_ids": _image_ids(rows, columns),
            "txt_ids": torch.zeros(embeds.shape[1], 3),
        }
        for number in range(len(sigmas) - 1):
            timestep = (sigmas[number] * _TRAIN_TIMESTEPS).expand(len(latents))
            velocity = transformer(
                hidden_states=packed.to(self.dtype),
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=timestep.to(self.dtype) / _TRAIN_TIMESTEPS,
                guidance=guidance,
                return_dict=False,
                **ids,
            )[0]
            packed = packed + (sigmas[number + 1] - sigmas[number]) * velocity.float()
            if on_step is not None:
                on_step(number, unpack(packed, rows, columns))
        return unpack(packed, rows, columns)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> "NDArray[np.uint8]":
        """Latents [B,C,h,w] to images, UINT8 [B,8h,8w,3]."""
        vae = self.component("vae")
        scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        decoded = vae.decode(scaled.to(self.dtype), return_dict=False)[0].float()
        shown = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return np.asarray((shown * 255).round().astype(np.uint8))

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        height: int,
        width: int,
        steps: int | None = None,
        guidance: float | Sequence[float] | None = None,
        *,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
    ) -> "NDArray[np.uint8]":
        """One image per prompt: UINT8 [B,height,width,3].

        Args:
            seeds: One per prompt.
            steps: By default 4 (schnell) or 28 (dev).
            guidance: For dev, one number or one per prompt; 3.5 by default.
            on_step: Called after each step with its number and the latents, FP32 [B,C,h,w].

        Raises:
            UsageError: A size, a number of steps or of seeds, or guidance that does not fit.
        """
        steps = STEPS[self.variant] if steps is None else steps
        scales = self._check(prompts, seeds, height, width, steps, guidance)
        embeds, pooled = self.encode(prompts)
        latents, sigmas = self.prepare(seeds, height, width, steps)
        return self.decode(self.denoise(latents, sigmas, embeds, pooled, scales, on_step=on_step))

    def generate_from(
        self,
        images: "NDArray[np.uint8]",
        strength: float | Sequence[float],
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | Sequence[float] | None = None,
        *,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
    ) -> "NDArray[np.uint8]":
        """One image per prompt that starts with another: UINT8 [B,H,W,3].

        Args:
            images: UINT8 [B,H,W,3], one per prompt.
            strength: How much of the way from noise to image is gone again, above 0 and not above
                1, one number or one per prompt; 1 starts with noise alone.
            steps: As many are taken, whatever the strength; see `schedule.even_sigmas`.

        Raises:
            UsageError: As `generate`; or an image or a strength that does not fit.
        """
        steps = STEPS[self.variant] if steps is None else steps
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UsageError(
                f"the images are {images.dtype}{list(images.shape)}, not UINT8 [B,H,W,3]"
            )
        height, width = images.shape[1:3]
        scales = self._check(prompts, seeds, height, width, steps, guidance)
        if len(images) != len(prompts):
            raise UsageError("give an image for each prompt")
        strengths = np.broadcast_to(np.asarray(strength, np.float64), len(prompts))
        if not ((strengths > 0) & (strengths <= 1)).all():
            raise UsageError(f"strength is {strength}", hint="above 0, and not above 1")
        embeds, pooled = self.encode(prompts)
        latents, noise = self.encode_image(images), self.noise(seeds, height, width)
        made = []
        for i, value in enumerate(strengths.tolist()):  # each strength has sigmas of its own
            sigmas = self.sigmas(steps, height, width, value)
            start = sigmas[0] * noise[i : i + 1] + (1.0 - sigmas[0]) * latents[i : i + 1]
            scale = None if scales is None else scales[i : i + 1]
            rows = (sigmas, embeds[i : i + 1], pooled[i : i + 1], scale)
            made.append(self.denoise(start, *rows, on_step=on_step))
        return self.decode(torch.cat(made))

    def _check(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        height: int,
        width: int,
        steps: int,
        guidance: float | Sequence[float] | None,
    ) -> torch.Tensor | None:
        """The guidance per image, if everything else fits."""
        if isinstance(prompts, str) or not prompts or len(prompts) != len(seeds):
            raise UsageError("give a list of prompts and a seed for each")
        if problem := size_problem(height, width, self.max_size):
            raise UsageError(problem)
        if steps < 1:
            raise UsageError(f"{steps} steps")
        if not self.guided:
            if guidance is not None:
                raise UsageError("this checkpoint takes no guidance", where=self.folder)
            return None
        given = 3.5 if guidance is None else guidance
        scales = torch.tensor(given, dtype=torch.float32).expand(len(prompts))
        if not scales.isfinite().all():
            raise UsageError(f"guidance is {given}")
        return scales


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B,C,h,w] to tokens [B,h/2*w/2,4C], one per patch of 2 by 2 latents."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Tokens [B,rows*columns,4C] to [B,C,2*rows,2*columns]."""
    batch, _, width = tokens.shape
    patches = tokens.view(batch, rows, columns, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, width // 4, rows * 2, columns * 2)


def _image_ids(rows: int, columns: int) -> torch.Tensor:
    """Row and column of each token, as FLUX counts them: FP32 [rows*columns,3]."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.reshape(rows * columns, 3)
