"""`flux_prepare`: from seed and image size to the noise and sigmas that denoising starts with.

The graph is `noise` and `schedule` once more, operation by operation, so it is equal to them to
the bit. Only INT64, FP64 + - * / and sqrt, comparisons and look-ups are used. What a request may
not ask for fails in a node whose name says what is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.families.flux.nodes import Nodes
from builder.families.flux.noise_graph import normal_nodes
from builder.families.flux.options import PIXELS_PER_PATCH, FluxOptions, check_steps, size_problem
from builder.stage import Arrays

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from builder.families.flux.schedule import Schedule

LATENT = 8
"""Pixels per latent, along a side."""


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """What `flux_prepare` is made for.

    Attributes:
        steps: Denoising steps.
        scheduler: Content of scheduler_config.json.
        max_size: Largest height and width.
        channels: Channels of the latents.
        guided: Whether guidance is taken as well, checked, and passed on.
    """

    steps: int
    scheduler: Mapping[str, Any]
    max_size: int
    channels: int = 16
    guided: bool = False

    @property
    def schedule(self) -> "Schedule":
        """The scheduler's settings.

        Raises:
            CheckpointError: FLUX.1 has no such scheduler.
        """
        from builder.families.flux.schedule import Schedule

        return Schedule.from_config(self.scheduler)


def prepare_plan(folder: Path, steps: int, options: FluxOptions) -> PreparePlan:
    """The plan for a checkpoint and a number of steps.

    Raises:
        CheckpointError: The checkpoint is damaged.
        ConfigError: The number of steps is out of range.
    """
    from builder.families.flux.checkpoint import component_config

    transformer = component_config(folder, "transformer")
    return PreparePlan(
        steps=check_steps(steps, where="steps"),
        scheduler=component_config(folder, "scheduler"),
        max_size=options.max_size,
        channels=int(transformer.get("in_channels", 64)) // 4,
        guided=bool(transformer.get("guidance_embeds")),
    )


def prepare_model(plan: PreparePlan) -> "onnx.ModelProto":
    """The graph.

    Inputs: seed, height, width INT64 [B,1]; guidance FP32 [B,1] if the plan is guided. Height and
    width are the same in all rows.

    Outputs: latents FP32 [B,channels,height/8,width/8], sigmas FP32 [B,steps+1], step INT64 [B,1]
    (zeros), and checked_guidance FP32 [B,1] if the plan is guided.
    """
    import numpy as np
    from onnx import TensorProto, helper

    from builder.families.flux.schedule import even_sigmas

    g = Nodes()
    height = checked_size(g, "height", "height", plan.max_size)
    width = checked_size(g, "width", "width", plan.max_size)
    eighth = g.constant([LATENT], np.int64)
    rows, columns = g.add("Div", height, eighth), g.add("Div", width, eighth)
    batch = g.add("Shape", "seed", start=0, end=1)
    noise_nodes(g, plan.channels, rows, columns, output="latents")

    even = g.constant(even_sigmas(plan.steps), np.float32)
    falling = sigma_nodes(g, plan, even, g.add("Mul", rows, columns))
    row = g.add("Concat", falling, g.constant([0.0], np.float32), axis=0)
    length = g.constant([plan.steps + 1], np.int64)
    g.add("Expand", row, g.add("Concat", batch, length, axis=0), output="sigmas")
    value = helper.make_tensor_value_info
    inputs = [value(n, TensorProto.INT64, ["B", 1]) for n in ("seed", "height", "width")]
    return start_model(g, plan, "flux_prepare", inputs)


def start_model(
    g: Nodes, plan: PreparePlan, name: str, inputs: "Sequence[onnx.ValueInfoProto]"
) -> "onnx.ModelProto":
    """The finished model of a graph that has made `latents` and `sigmas` from `inputs`.

    The step that each sample starts at is added, and the guidance of a variant that takes one.
    """
    from onnx import TensorProto, helper

    first = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    g.add("ConstantOfShape", g.add("Shape", "seed"), output="step", value=first)
    value = helper.make_tensor_value_info
    given = list(inputs)
    outputs = [
        value("latents", TensorProto.FLOAT, ["B", plan.channels, "h", "w"]),
        value("sigmas", TensorProto.FLOAT, ["B", plan.steps + 1]),
        value("step", TensorProto.INT64, ["B", 1]),
    ]
    if plan.guided:
        guidance_nodes(g)
        given.append(value("guidance", TensorProto.FLOAT, ["B", 1]))
        outputs.append(value("checked_guidance", TensorProto.FLOAT, ["B", 1]))
    return g.model(name, given, outputs)


def prepare_reference(plan: PreparePlan, arrays: Arrays) -> Arrays:
    """The same in NumPy.

    Raises:
        ValueError: A size or guidance that the graph refuses, too.
    """
    import numpy as np

    from builder.families.flux.noise import normal

    seeds, heights, widths = (arrays[n][:, 0] for n in ("seed", "height", "width"))
    height, width = int(heights[0]), int(widths[0])
    if (heights != height).any() or (widths != width).any():
        raise ValueError("every image of a request must have the same size")
    if problem := size_problem(height, width, plan.max_size):
        raise ValueError(problem)
    batch, rows, columns = len(seeds), height // LATENT, width // LATENT
    tokens = (height // PIXELS_PER_PATCH) * (width // PIXELS_PER_PATCH)
    sigmas = plan.schedule.sigmas(plan.steps, tokens)
    results: Arrays = {
        "latents": normal(seeds, plan.channels * rows * columns).reshape(
            batch, plan.channels, rows, columns
        ),
        "sigmas": np.tile(sigmas, (batch, 1)),
        "step": np.zeros((batch, 1), np.int64),
    }
    if plan.guided:
        results["checked_guidance"] = checked_guidance(arrays["guidance"])
    return results


_MOST_GUIDANCE = 1000.0
_BAD_GUIDANCE = f"guidance must be a number between -{_MOST_GUIDANCE:g} and {_MOST_GUIDANCE:g}"


def checked_guidance(
    guidance: "np.ndarray[Any, Any]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Guidance, FP32 [B,1], if every value is one.

    Raises:
        ValueError: One is not.
    """
    import numpy as np

    if not (np.abs(guidance) <= _MOST_GUIDANCE).all():
        raise ValueError(_BAD_GUIDANCE)
    return guidance.astype(np.float32)


def noise_nodes(g: Nodes, channels: int, rows: str, columns: str, output: str = "") -> str:
    """Noise by the input `seed`: FP32 [B,channels,rows,columns]."""
    import numpy as np

    words_per_latent = g.constant([channels / 4], np.int64)
    blocks = g.add("Mul", g.add("Mul", rows, columns), words_per_latent)
    scalar = g.constant([], np.int64)
    block = g.add(
        "Range",
        g.constant(0, np.int64),
        g.add("Reshape", blocks, scalar),
        g.constant(1, np.int64),
    )
    noise = normal_nodes(g, "seed", g.add("Unsqueeze", block, g.constant([0], np.int64)))
    batch = g.add("Shape", "seed", start=0, end=1)
    shape = g.add("Concat", batch, g.constant([channels], np.int64), rows, columns, axis=0)
    return g.add("Reshape", noise, shape, output=output)


def sigma_nodes(g: Nodes, plan: PreparePlan, even: str, latents: str) -> str:
    """`Schedule.shifted` as nodes.

    Args:
        even: FP32, evenly spaced sigmas.
        latents: INT64 [1], the number of latents of the image.
    """
    import numpy as np

    schedule, one = plan.schedule, g.constant(1.0, np.float32)
    if schedule.dynamic:
        # A table, because `exp` rounds differently from library to library.
        most = (plan.max_size // PIXELS_PER_PATCH) ** 2
        table = g.constant(schedule.stretches(most), np.float32)
        four = g.constant([(PIXELS_PER_PATCH // LATENT) ** 2], np.int64)
        stretch = g.add("Gather", table, g.add("Div", latents, four))
        odds = g.add("Sub", g.add("Div", one, even), one)
        return g.add("Div", stretch, g.add("Add", stretch, odds))
    shift = g.constant(schedule.shift, np.float32)
    more = g.constant(schedule.shift - 1, np.float32)
    bottom = g.add("Add", one, g.add("Mul", more, even))
    return g.add("Div", g.add("Mul", shift, even), bottom)


def checked_size(g: Nodes, values: str, name: str, max_size: int) -> str:
    """One size for the whole request: INT64 [1].

    Args:
        values: INT64 [B,1].
        name: What it is, for the message.
    """
    import numpy as np

    def every(condition: str) -> str:
        from onnx import TensorProto

        number = g.add("Cast", condition, to=TensorProto.INT32)
        return g.add("Cast", g.add("ReduceMin", number, keepdims=0), to=TensorProto.BOOL)

    patch = g.constant(PIXELS_PER_PATCH, np.int64)
    first = g.add("Gather", values, g.constant([0], np.int64), name=f"the first {name}")  # [1,1]
    size = g.add("Reshape", first, g.constant([1], np.int64))
    whole = g.add(
        "Equal", g.add("BitwiseAnd", values, g.constant(PIXELS_PER_PATCH - 1, np.int64)),
        g.constant(0, np.int64),
    )  # fmt: skip
    positive = g.add("GreaterOrEqual", values, patch)
    low = g.add("LessOrEqual", values, g.constant(max_size, np.int64))
    size = g.require(
        every(g.add("Equal", values, first)),
        size,
        f"every image of a request must have the same {name}",
    )
    size = g.require(
        every(g.add("And", whole, positive)),
        size,
        f"{name} must be a positive multiple of {PIXELS_PER_PATCH}",
    )
    return g.require(every(low), size, f"{name} must not be above {max_size}")


def guidance_nodes(g: Nodes) -> None:
    """`checked_guidance` as nodes; NaN fails every comparison, so one refuses it as well."""
    import numpy as np
    from onnx import TensorProto

    small = g.add("LessOrEqual", g.add("Abs", "guidance"), g.constant(_MOST_GUIDANCE, np.float32))
    number = g.add("Cast", small, to=TensorProto.INT32)
    good = g.add("Cast", g.add("ReduceMin", number, keepdims=0), to=TensorProto.BOOL)
    zero = g.require(good, g.constant(0, np.int64), _BAD_GUIDANCE)
    zero_float = g.add("Cast", zero, to=TensorProto.FLOAT)
    g.add("Add", "guidance", zero_float, output="checked_guidance")
