"""What `builder bench` compares: the ensemble and the BLS pipeline, at two sizes of the networks.

With the tiny networks the serving decides; with about 20 M parameters the computation does.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from builder.bench.case import Case, Load, Variant
from builder.bench.results import FLOOR, NATIVE, PYTHON, TRT
from builder.config import Config, load_config
from builder.errors import BuilderError
from builder.families.flux.options import FluxOptions
from builder.repository.layout import PYTHON_GROUP
from builder.stage import Arrays

PIPELINE = "flux_schnell"
TWIN = "flux_bls"
TWIN_STAGES = ("clip_encoder_py", "t5_encoder_py", "dit_transformer_py", "vae_decoder_py")
"""Models that the twin calls."""

TINY_PIXELS, SMALL_PIXELS = 64, 256
SMALL = "small"
"""`[flux] random_size` of the larger networks."""

_SUBJECTS = ("lighthouse", "harbour", "mill", "orchard", "glacier", "market", "library", "canal")


def cases(config: Config) -> Iterable[Case]:
    """The cases, for the pipelines that `config` builds."""
    found = [_case(config, TINY_PIXELS)]
    if "random_size" in FluxOptions.__dataclass_fields__:
        found.append(_small(config))
    return found


def _case(config: Config, pixels: int) -> Case:
    send = partial(_prompts, pixels)
    variants = [Variant(name=NATIVE, loads=(Load(PIPELINE, send),))]
    if (config.repository / "ensemble" / PIPELINE / "configs" / "trt.pbtxt").is_file():
        variants.append(Variant(name=TRT, loads=(Load(PIPELINE, send),), config_name="trt"))
    variants += [
        Variant(name=PYTHON, loads=(Load(TWIN, send),), needs=TWIN_STAGES),
        Variant(name=FLOOR, loads=(Load(PIPELINE, send),)),
    ]
    return Case(
        name=PIPELINE,
        title="text to image in four steps, the configured checkpoint",
        unit="image",
        request=f"a prompt, {pixels}x{pixels} pixels, {len(_SUBJECTS)} different ones",
        variants=tuple(variants),
        # Or the text encoders would answer from it after the first few requests.
        config=config.replace("server", response_cache_mib=0),
    )


def _small(config: Config) -> Case:
    """The same with random networks of about 20 M parameters, in a workspace of their own."""
    workspace = config.build_dir / "bench" / "flux-small"
    environ = {
        "BUILDER_FLUX_RANDOM_SIZE": SMALL,
        "BUILDER_FLUX_CHECKPOINT": "",
        "BUILDER_PATHS_EXPORTS": str(workspace / "exports"),
        "BUILDER_PATHS_REPOSITORY": str(workspace / "model_repository"),
        "BUILDER_PATHS_BUILD": str(workspace / "build"),
    }
    small = load_config(root=workspace, environ={**config.environ, **environ})
    small = dataclasses.replace(small, server=config.server)
    return dataclasses.replace(
        _case(small, SMALL_PIXELS),
        name=f"{PIPELINE}_{SMALL}",
        title="text to image in four steps, random networks of about 20 M parameters",
        concurrency=(1,),
        quick=False,
        environ=environ,
        prepare=partial(_build, small, config),
    )


def _build(small: Config, config: Config) -> None:
    """Build the pipeline in its workspace; compiled backends and twins are those of the project.

    Raises:
        BuilderError: Something could not be built.
    """
    from builder.build.execute import exclusive, execute
    from builder.build.plan import make_context, make_plan
    from builder.family import Registry

    _link(small.repository / PYTHON_GROUP, config.repository / PYTHON_GROUP)
    _link(small.build_dir / "backends", config.build_dir / "backends")
    context = make_context(small, Registry.load(small))
    with exclusive(small.build_dir):
        outcomes = execute(make_plan(context, [PIPELINE]), context.digests)
    for action, outcome in outcomes.items():
        if not outcome.ok and outcome.error is not None:
            raise BuilderError(
                f"{action} could not be built: {outcome.error.what}", hint=outcome.error.hint
            )


def _link(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target.resolve())


def _prompts(pixels: int) -> Sequence[Arrays]:
    """Requests for one image each."""
    import numpy as np

    return [
        {
            "prompt": np.array([[f"a {subject} at dawn, oil on canvas".encode()]], object),
            "seed": np.array([[number]], np.int64),
            "height": np.array([[pixels]], np.int64),
            "width": np.array([[pixels]], np.int64),
        }
        for number, subject in enumerate(_SUBJECTS)
    ]
