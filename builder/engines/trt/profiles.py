"""Optimisation profiles: which sizes a plan takes, and for which of them it is tuned."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.errors import ConfigError, EngineError
from builder.stage import Arrays, Range, Stage, Tensor

_RANGE = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)=([0-9]+)(?::([0-9]+):([0-9]+))?")


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """One optimisation profile.

    Attributes:
        ranges: Symbol -> smallest, usual and largest size.
        inputs: Name of each input -> its smallest, usual and largest shape.
    """

    ranges: Mapping[str, Range]
    inputs: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether inputs of these symbol sizes fit."""
        return all(r.min <= sizes.get(s, r.opt) <= r.max for s, r in self.ranges.items())

    def admits_arrays(self, arrays: Arrays) -> bool:
        """Whether these inputs fit."""
        return all(
            len(arrays[name].shape) == len(low)
            and all(a <= n <= b for a, n, b in zip(low, arrays[name].shape, high, strict=True))
            for name, (low, _, high) in self.inputs.items()
        )

    def point(self, which: str) -> dict[str, int]:
        """Symbol sizes at its `min`, `opt` or `max`."""
        return {symbol: getattr(r, which) for symbol, r in self.ranges.items()}

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {name: [list(shape) for shape in shapes] for name, shapes in self.inputs.items()}

    def __str__(self) -> str:
        return ",".join(f"{s}={r.min}:{r.opt}:{r.max}" for s, r in self.ranges.items()) or "static"


def stage_profiles(stage: Stage, texts: Sequence[str] = ()) -> tuple[ShapeProfile, ...]:
    """The profiles of a stage: its own one, or those of builder.toml.

    A symbol that a text does not name keeps the range of the stage. A batch symbol without range
    gets 1 to `max_batch_size`.

    Args:
        texts: Profiles as `T=1:100:4096` (several symbols with commas between; one number where
            the size is fixed).

    Raises:
        ConfigError: A text is no profile, or names a symbol that the stage does not have.
        EngineError: A symbol has no range, a profile cannot hold a full batch, or none admits
            the stage's usual example.
    """
    where = f"stage {stage.name}"
    own: dict[str, Range] = dict(stage.profile)
    batch = stage.inputs[0].dims[0] if stage.max_batch_size > 0 and stage.inputs else None
    if isinstance(batch, str) and batch not in own:
        own[batch] = Range(1, stage.max_batch_size, stage.max_batch_size)
    profiles = []
    for given in [parse_ranges(text, where=where) for text in texts] or [{}]:
        profile = make_profile(stage.inputs, {**own, **given}, where=where, given=given)
        if isinstance(batch, str) and profile.ranges[batch].max < stage.max_batch_size:
            raise EngineError(
                f"the profile {profile} ends below max_batch_size {stage.max_batch_size}",
                where=where,
                hint=f"let {batch} reach {stage.max_batch_size} in every profile",
            )
        profiles.append(profile)
    if stage.shapes and not any(profile.admits(stage.shapes[0]) for profile in profiles):
        raise EngineError(
            f"no profile admits the stage's example {dict(stage.shapes[0])}: "
            + "; ".join(map(str, profiles)),
            where=where,
            hint=f'widen it in builder.toml: [tensorrt."{stage.name}"] profiles = ["T=1:100:4096"]',
        )
    return tuple(profiles)


def make_profile(
    inputs: Iterable[Tensor],
    ranges: Mapping[str, Range],
    *,
    where: str,
    given: Mapping[str, Range] | None = None,
) -> ShapeProfile:
    """The profile of some inputs.

    Args:
        ranges: Symbol -> range; symbols that no input has are left out.
        given: Those of them that a user stated: here a symbol that no input has is an error.

    Raises:
        ConfigError: `given` names an unknown symbol.
        EngineError: A symbol has no range.
    """
    tensors = tuple(inputs)
    symbols = dict.fromkeys(d for t in tensors for d in t.dims if isinstance(d, str))
    if unknown := sorted(set(given or {}) - set(symbols)):
        raise ConfigError(
            f"the profile names {', '.join(unknown)}, which no input has",
            where=where,
            hint=f"symbols: {', '.join(symbols) or 'none, every size is fixed'}",
        )
    if missing := [symbol for symbol in symbols if symbol not in ranges]:
        raise EngineError(
            f"no sizes are known for {', '.join(missing)}",
            where=where,
            hint=f"give a profile: {missing[0]}=MIN:OPT:MAX",
        )
    used = {symbol: ranges[symbol] for symbol in symbols}
    points = [{s: getattr(r, w) for s, r in used.items()} for w in ("min", "opt", "max")]
    low, usual, high = points
    shapes = {t.name: (t.shape(low), t.shape(usual), t.shape(high)) for t in tensors}
    return ShapeProfile(used, shapes)


def parse_ranges(text: str, *, where: str) -> dict[str, Range]:
    """Read `T=1:100:4096,H=512`.

    Raises:
        ConfigError: It is no profile.
    """
    ranges: dict[str, Range] = {}
    for part in text.replace(" ", "").split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"{part!r} is no profile range", where=where, hint="write T=1:100:4096 or T=100"
            )
        symbol, low, usual, high = match.groups()
        try:
            ranges[symbol] = Range(int(low), int(usual or low), int(high or low))
        except ValueError as error:
            raise ConfigError(str(error), where=where) from error
    return ranges
