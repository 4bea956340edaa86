"""Reading a FLUX.1 checkpoint in the layout of diffusers.

    model_index.json  scheduler/  tokenizer/  tokenizer_2/
    text_encoder/  text_encoder_2/  transformer/  vae/

Weights come from safetensors files only, whole or in shards, and must fit the architecture that
the component's config.json describes, tensor by tensor.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import CheckpointError
from builder.families.flux.mismatch import differences, raise_if
from builder.families.flux.shards import read_json, shard_files, stored_tensors
from builder.stored import StoredTensor

if TYPE_CHECKING:
    import torch

_LAYOUT = "a FLUX.1 folder in the layout of diffusers has model_index.json beside its components"


@dataclass(frozen=True, slots=True)
class _Component:
    """What a component is made of: classes by library, and files besides the weights."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    stem: str | None = None


COMPONENTS: Mapping[str, _Component] = {
    "scheduler": _Component(("FlowMatchEulerDiscreteScheduler",), ("scheduler_config.json",)),
    "tokenizer": _Component(
        ("CLIPTokenizer", "CLIPTokenizerFast"),
        ("vocab.json", "merges.txt", "tokenizer_config.json"),
    ),
    "tokenizer_2": _Component(
        ("T5TokenizerFast", "T5Tokenizer"),
        ("spiece.model", "tokenizer.json", "tokenizer_config.json"),
    ),
    "text_encoder": _Component(("CLIPTextModel",), ("config.json",), "model"),
    "text_encoder_2": _Component(("T5EncoderModel",), ("config.json",), "model"),
    "transformer": _Component(
        ("FluxTransformer2DModel",), ("config.json",), "diffusion_pytorch_model"
    ),
    "vae": _Component(("AutoencoderKL",), ("config.json",), "diffusion_pytorch_model"),
}
"""The parts of a checkpoint."""


def variant_of(folder: Path) -> str:
    """`dev` if the transformer takes guidance, else `schnell`.

    Raises:
        CheckpointError: It is no FLUX.1 checkpoint.
    """
    check_layout(folder)
    return "dev" if component_config(folder, "transformer").get("guidance_embeds") else "schnell"


def check_layout(folder: Path) -> None:
    """Check that every component is there and of the class that FLUX.1 has.

    Raises:
        CheckpointError: A file or component is missing or of another kind.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise CheckpointError("no FLUX.1 checkpoint", where=folder, hint=_LAYOUT)
    listed = read_json(index)
    problems = []
    for name, component in COMPONENTS.items():
        entry = listed.get(name)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if found not in component.classes:
            problems.append(f"{name} is {found}, not {' or '.join(component.classes)}")
    if problems:
        raise CheckpointError("; ".join(problems), where=index, hint=_LAYOUT)
    for name in COMPONENTS:
        _present(folder, name)


def component_config(folder: Path, name: str) -> dict[str, Any]:
    """The configuration of a component.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    files = [file for file in _present(folder, name) if file.name.endswith("config.json")]
    return read_json(files[0])


def checkpoint_files(folder: Path, component: str) -> tuple[Path, ...]:
    """The files that decide what a component computes, for digests.

    Raises:
        CheckpointError: One is missing.
    """
    files = _present(folder, component)
    stem = COMPONENTS[component].stem
    return files if stem is None else (*files, *shard_files(folder / component, stem))


def component_tensors(folder: Path, name: str) -> dict[str, StoredTensor]:
    """Where the tensors of a network lie, by the names that the module of `load_component` has.

    Raises:
        CheckpointError: A file is missing, truncated or damaged.
    """
    stem = COMPONENTS[name].stem
    if stem is None:
        raise CheckpointError(f"{name} has no tensors", where=folder)
    found = stored_tensors(folder / name, stem)
    return {_RENAME[name](key): t for key, t in found.items() if key not in _IGNORED}


def build_component(folder: Path, name: str) -> "torch.nn.Module":
    """A network of the architecture that config.json describes, on the `meta` device.

    Raises:
        CheckpointError: The configuration is damaged, or of another kind.
    """
    import torch

    config = component_config(folder, name)
    try:
        with torch.device("meta"):
            module: torch.nn.Module = _MAKE[name](config)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"config.json describes no {COMPONENTS[name].classes[0]}: {error}", where=folder / name
        ) from error
    return module.eval()


def load_component(folder: Path, name: str, dtype: "torch.dtype | None" = None) -> Any:
    """One component: a network in eval mode, a tokenizer or the scheduler.

    Args:
        name: A key of `COMPONENTS`.
        dtype: Data type of a network; float32 by default.

    Raises:
        CheckpointError: A file is missing, truncated or damaged; or a tensor is missing, extra,
            renamed, wrong-shaped, or holds NaN or Inf. Each one is named.
    """
    import transformers

    where = folder / name
    _present(folder, name)
    try:
        if name == "tokenizer":
            return transformers.CLIPTokenizer.from_pretrained(where, local_files_only=True)
        if name == "tokenizer_2":
            return transformers.T5Tokenizer.from_pretrained(where, local_files_only=True)
        if name == "scheduler":
            config = component_config(folder, name)
            return _diffusers().FlowMatchEulerDiscreteScheduler.from_config(config)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise whatever their parser trips over
        raise CheckpointError(f"cannot be loaded: {error}", where=where) from error
    return _load_network(folder, name, dtype)


def _load_network(folder: Path, name: str, dtype: "torch.dtype | None") -> "torch.nn.Module":
    import torch

    module = build_component(folder, name)
    stored = component_tensors(folder, name)
    expected = parameters_of(module)
    problems = list(differences(stored, {k: tuple(t.shape) for k, t in expected.items()}))
    raise_if(problems, module, folder / name)
    state: dict[str, torch.Tensor] = {}
    for key, tensor in _read(stored):
        if not torch.isfinite(tensor).all():
            problems.append(f"{key} holds NaN or Inf")
        state[key] = tensor.to(dtype or torch.float32)
    raise_if(problems, module, folder / name)
    for alias, key in _ALIASES.get(name, {}).items():
        state[alias] = state[key]
    module.load_state_dict(state, strict=True, assign=True)
    for alias, key in _ALIASES.get(name, {}).items():  # one parameter again, not two equal ones
        parent, _, attribute = alias.rpartition(".")
        setattr(module.get_submodule(parent), attribute, module.get_parameter(key))
    fill_buffers(module, name)
    return module


def fill_buffers(module: "torch.nn.Module", name: str) -> None:
    """Give a network from `build_component` the buffers that no checkpoint has."""
    import torch

    if name == "text_encoder":
        embeddings = module.get_submodule("embeddings")
        positions = module.get_parameter(_POSITIONS).shape[0]
        embeddings.position_ids = torch.arange(positions)[None]
    if left := [n for n, b in module.named_buffers() if b.is_meta]:
        raise AssertionError(f"{name} has the buffers {left} that no checkpoint fills")


def parameters_of(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Parameters by name, a shared one only once."""
    return dict(module.named_parameters())


def _read(stored: Mapping[str, StoredTensor]) -> "Iterable[tuple[str, torch.Tensor]]":
    """Read the tensors file by file."""
    import safetensors

    by_file: dict[Path, list[tuple[str, StoredTensor]]] = {}
    for key, tensor in stored.items():
        by_file.setdefault(tensor.file, []).append((key, tensor))
    for file, tensors in by_file.items():
        with safetensors.safe_open(file, framework="pt") as opened:
            for key, tensor in tensors:
                yield key, opened.get_tensor(tensor.name)


def _present(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a component besides its weights, all of them there."""
    files = tuple(folder / name / file for file in COMPONENTS[name].files)
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{', '.join(missing)} missing", where=folder / name, hint="download it again"
        )
    return files


def _same(name: str) -> str:
    return name


def _t5_name(name: str) -> str:
    """T5 stores its embedding as `shared`, as `encoder.embed_tokens`, or as both."""
    return "shared.weight" if name == "encoder.embed_tokens.weight" else name


_RENAME: Mapping[str, Callable[[str], str]] = {
    # Before transformers 5 the text model was a part of the module that the hub's files name.
    "text_encoder": lambda name: name.removeprefix("text_model."),
    "text_encoder_2": _t5_name,
    "transformer": _same,
    "vae": _same,
}
_IGNORED = frozenset({"text_model.embeddings.position_ids", "embeddings.position_ids"})
_ALIASES = {"text_encoder_2": {"encoder.embed_tokens.weight": "shared.weight"}}
_POSITIONS = "embeddings.position_embedding.weight"


def _diffusers() -> Any:
    """The library, whose annotations are too few for a type checker."""
    return importlib.import_module("diffusers")


def _clip(config: dict[str, Any]) -> Any:
    import transformers

    return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))


def _t5(config: dict[str, Any]) -> Any:
    import transformers

    return transformers.T5EncoderModel(transformers.T5Config.from_dict(config))


def _transformer(config: dict[str, Any]) -> Any:
    return _diffusers().FluxTransformer2DModel.from_config(config)


def _vae(config: dict[str, Any]) -> Any:
    return _diffusers().AutoencoderKL.from_config(config)


_MAKE: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "text_encoder": _clip,
    "text_encoder_2": _t5,
    "transformer": _transformer,
    "vae": _vae,
}
