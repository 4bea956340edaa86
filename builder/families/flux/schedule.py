"""Sigmas: how much noise is left before each denoising step.

The arithmetic, types and order of operations are those of diffusers' `FluxPipeline` with
`FlowMatchEulerDiscreteScheduler`, so the values are the same to the bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSUPPORTED = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas",
    "invert_sigmas", "stochastic_sampling", "shift_terminal",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduler's settings.

    Attributes:
        dynamic: Whether the shift depends on the number of image tokens (FLUX.1 dev).
        shift: The shift where it does not depend on them (FLUX.1 schnell: 1, none).
        exponential: Whether the dynamic shift is exp(mu), or mu itself.
        base_tokens: Image tokens at which mu is `base_shift`.
        max_tokens: Image tokens at which mu is `max_shift`; mu is linear, and goes on beyond.
    """

    dynamic: bool = False
    shift: float = 1.0
    exponential: bool = True
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Schedule":
        """From the content of scheduler_config.json.

        Raises:
            CheckpointError: A setting that FLUX.1 does not use, or of the wrong type.
        """
        if used := [name for name in _UNSUPPORTED if config.get(name)]:
            raise CheckpointError(
                f"sets {', '.join(used)}, which FLUX.1's scheduler does not use",
                where="scheduler_config.json",
            )
        if config.get("num_train_timesteps", 1000) != 1000:
            raise CheckpointError("num_train_timesteps is not 1000", where="scheduler_config.json")
        kind = config.get("time_shift_type", "exponential")
        if kind not in ("exponential", "linear"):
            raise CheckpointError(f"time_shift_type is {kind!r}", where="scheduler_config.json")
        try:
            return cls(
                dynamic=bool(config.get("use_dynamic_shifting", False)),
                shift=float(config.get("shift", 1.0)),
                exponential=kind == "exponential",
                base_tokens=int(config.get("base_image_seq_len", 256)),
                max_tokens=int(config.get("max_image_seq_len", 4096)),
                base_shift=float(config.get("base_shift", 0.5)),
                max_shift=float(config.get("max_shift", 1.15)),
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"holds a wrong value: {error}", where="scheduler_config.json"
            ) from error

    def mu(self, tokens: int) -> float:
        """The resolution-dependent shift for a number of image tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return tokens * slope + (self.base_shift - slope * self.base_tokens)

    def stretch(self, tokens: int) -> np.float32:
        """What the dynamic shift multiplies the odds of a sigma with: exp(mu) or mu."""
        mu = self.mu(tokens)
        return np.float32(math.exp(mu) if self.exponential else mu)

    def stretches(self, most_tokens: int) -> "NDArray[np.float32]":
        """`stretch` for 0 to `most_tokens` image tokens."""
        return np.array([self.stretch(n) for n in range(most_tokens + 1)], np.float32)

    def shifted(
        self, even: "NDArray[np.float32]", stretch: "NDArray[np.float32] | np.float32 | None"
    ) -> "NDArray[np.float32]":
        """Sigmas from evenly spaced ones.

        Args:
            even: FP32 of any shape.
            stretch: Of the image's tokens, see `stretch`; not read where the shift is static.
        """
        shifted: NDArray[np.float32]
        if self.dynamic:
            shifted = stretch / (stretch + inverse_odds(even))  # type: ignore[operator]
        else:
            shifted = self.shift * even / (1 + (self.shift - 1) * even)
        return shifted

    def sigmas(self, steps: int, tokens: int, strength: float = 1.0) -> "NDArray[np.float32]":
        """FP32 [steps+1], falling to 0 from 1, or from less with a strength below 1.

        Args:
            tokens: Image tokens: height/16 * width/16.
            strength: See `even_sigmas`.
        """
        stretch = self.stretch(tokens) if self.dynamic else None
        return np.append(self.shifted(even_sigmas(steps, strength), stretch), np.float32(0.0))


def even_sigmas(steps: int, strength: float = 1.0) -> "NDArray[np.float32]":
    """FP32 [steps]: 1, ..., 2/steps, 1/steps, all multiplied by the strength.

    The strength of image-to-image says where on the way from noise to image denoising starts, and
    every step that is paid for is taken. Diffusers cuts a schedule of n steps down to its last
    n * strength ones instead; where that is `steps`, these are the same sigmas.
    """
    return (strength * np.linspace(1.0, 1 / steps, steps)).astype(np.float32)


def inverse_odds(even: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """1/sigma - 1 of even sigmas; infinite where one is too small for its inverse."""
    with np.errstate(divide="ignore", over="ignore"):
        odds: NDArray[np.float32] = 1 / even - 1
    return odds
