"""What FLUX's python-backend models share: the stages that they stand for, run by PyTorch.

A twin has the tensors of its native stage, batches as that one does, and gets the same number of
threads. Weights are those that the native stage is built from: `[flux] checkpoint` in the
builder.toml of the folder that the server was started in, or BUILDER_FLUX_CHECKPOINT, or else the
tiny random checkpoint. The networks are loaded as the reference pipeline loads them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.config import load_config
from builder.errors import ConfigError, UsageError
from builder.families.flux.checkpoint import load_component
from builder.families.flux.models import dit_step, text_encoders, vae_decoder
from builder.families.flux.models.variants import VARIANTS, Variant, variants
from builder.families.flux.options import PIXELS_PER_PATCH
from builder.families.flux.prepare_graph import LATENT
from builder.serving import python_twin
from builder.stage import Arrays, Shape, Stage, Tensor, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

GUIDANCE = "guidance"

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def clip_encoder() -> Stage:
    """The native stage behind `clip_encoder_py`."""
    return text_encoders.clip_encoder(variants(load_config())[0])


def t5_encoder() -> Stage:
    """The native stage behind `t5_encoder_py`."""
    return text_encoders.t5_encoder(variants(load_config())[0])


def vae_decoder_stage() -> Stage:
    """The native stage behind `vae_decoder_py`."""
    return vae_decoder.stage(variants(load_config())[0])


def dit_steps() -> Mapping[bool, Stage]:
    """The native stages behind `dit_transformer_py`, by whether they take guidance."""
    return {variant.guided: dit_step.stage(variant) for variant in variants(load_config())}


def find_variant(name: str) -> Variant:
    """The configured variant of that name; an empty name takes the first.

    Raises:
        ConfigError: It is not configured.
    """
    found = variants(load_config())
    if not name:
        return found[0]
    for variant in found:
        if variant.name == name:
            return variant
    raise ConfigError(
        f"parameter variant is {name!r}",
        where="config.pbtxt",
        hint=f"configured: {', '.join(variant.name for variant in found)}"
        if name in VARIANTS
        else f"use {' or '.join(VARIANTS)}",
    )


def use_threads(args: Mapping[str, str], stage: Stage) -> None:
    """As many threads as the native stage gets, unless the config's parameter says otherwise."""
    options = load_config().stage_options(stage.name, stage.serving)
    python_twin.use_threads(args, options.intra_op_threads)


def dtype(device: str, stage: Stage) -> "torch.dtype":
    """The precision of a network: on a GPU that of the stage's plan for it."""
    import torch

    if device == "cpu":
        return torch.float32
    major, minor = torch.cuda.get_device_capability(device)
    found: torch.dtype = getattr(torch, _DTYPES[stage.precision_at(f"sm{major}{minor}")])
    return found


def network(
    component: str, wrap: "Callable[[Any], torch.nn.Module]", device: str, stage: Stage
) -> "torch.nn.Module":
    """A component of the checkpoint of the first variant, which all of them share.

    Args:
        component: `text_encoder`, `text_encoder_2` or `vae`.
        wrap: Makes the stage's module of it.

    Raises:
        CheckpointError: The checkpoint is missing, incomplete or damaged.
    """
    folder = variants(load_config())[0].folder()
    return wrap(load_component(folder, component, dtype(device, stage))).eval().to(device)


def transformers(device: str) -> "Mapping[bool, torch.nn.Module]":
    """The transformer of each configured variant, by whether it takes guidance.

    Raises:
        CheckpointError: The checkpoint is missing, incomplete or damaged.
    """
    from builder.families.flux.networks.dit_step import DitStep

    networks = {}
    for variant in variants(load_config()):
        kind = dtype(device, dit_step.stage(variant))
        transformer = load_component(variant.folder(), "transformer", kind)
        positions = variant.options.max_size // PIXELS_PER_PATCH
        networks[variant.guided] = DitStep(transformer, positions).eval().to(device)
    return networks


def run(network: "torch.nn.Module", stage: Stage, device: str, arrays: Arrays) -> Arrays:
    """Run a network on the inputs of its stage.

    Args:
        arrays: Inputs by name.

    Returns:
        Outputs by name.
    """
    import torch

    given = [torch.from_numpy(arrays[t.name]).to(device) for t in stage.inputs]
    with torch.inference_mode(), torch.device(device):
        result = network(*given)
    outputs = result if isinstance(result, tuple) else (result,)
    return python_twin.named(stage.outputs, outputs)


def check_tokens(vocabulary: int, arrays: Arrays) -> None:
    """UsageError unless all `input_ids` are in the vocabulary."""
    ids = arrays["input_ids"]
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise UsageError(f"input input_ids holds a token outside of 0 to {vocabulary - 1}")


def check_step(stage: Stage, arrays: Arrays) -> None:
    """UsageError unless the step and the size of every sample exist."""
    step, last = arrays["step"], arrays["sigmas"].shape[1] - 2
    if step.min() < 0 or step.max() > last:
        raise UsageError(f"input step is {step.flatten().tolist()}, not within 0 to {last}")
    height, width = arrays["latents"].shape[2:]
    most = int(stage.metadata["max_size"]) // LATENT
    if height % 2 or width % 2 or max(height, width) > most:
        raise UsageError(f"latents of {height} by {width}: both are even, and at most {most}")


def vocabulary(component: str) -> int:
    """Number of tokens of a text encoder: `text_encoder` or `text_encoder_2`."""
    widths = variants(load_config())[0].widths
    return widths.clip_vocabulary if component == "text_encoder" else widths.t5_vocabulary


def dit_tensors(
    stages: Mapping[bool, Stage],
) -> tuple[Stage, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """One of the stages, the inputs that all of them take, and the one that only some take."""
    stage = next(iter(stages.values()))
    guidance = [t for s in stages.values() for t in s.inputs if t.name == GUIDANCE]
    if len(stages) == 1:
        return stage, stage.inputs, ()
    return stage, tuple(t for t in stage.inputs if t.name != GUIDANCE), tuple(guidance)


def expected(stage: Stage) -> Callable[[Arrays], Arrays]:
    """What the module behind a stage says about one request at a time."""
    source = stage.source
    if not isinstance(source, TorchSource):
        raise TypeError(f"{stage.name} is no PyTorch stage")
    return partial(run, source.load(), stage, "cpu")


def check_pipeline(
    self_check: Callable[..., None], model_class: type[Any], file: str, *, streamed: bool = False
) -> None:
    """Check a pipeline without a server, against the reference.

    Args:
        self_check: `builder.serving.self_check.self_check`.
        streamed: Whether it is `flux_bls_stream`; its last response is checked.
    """
    import numpy as np

    from builder.families.flux.models import pipelines
    from builder.families.flux.models.specs import PipelineSpec

    variant = find_variant("")
    spec = PipelineSpec("twin", variant, variant.options.step_count(variant.name), "")

    def example(shape: Shape, generator: "np.random.Generator") -> Arrays:
        prompts = [f"picture {generator.integers(100)}" for _ in range(shape["B"])]
        seeds = generator.integers(2**40, size=len(prompts)).tolist()
        return pipelines.request(spec, prompts, seeds, shape["H"], shape["W"], 3.5)

    shapes = ({"B": 1, "H": 64, "W": 48}, {"B": 2, "H": 32, "W": 64}, {"B": 1, "H": 64, "W": 48})

    def reference(arrays: Arrays) -> Arrays:
        outputs = pipelines.reference(spec, arrays)
        count = len(arrays["prompt"])
        last = {"step": np.full((count, 1), spec.steps), "final": np.ones((count, 1), bool)}
        return outputs | last if streamed else outputs

    self_check(model_class, file, example, reference, shapes=shapes, levels=1)
