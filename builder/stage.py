"""Stages: one network with a typed signature, and how to make and check it.

A stage is declared by a family (see `builder.family`). Declaring one costs nothing: whatever
needs torch or onnx sits behind a callable that is only called when the stage is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from builder.stored import StoredWeights

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

Dim = int | str
"""A fixed size, or the name of a symbol: equal names mean equal sizes within one request."""

Shape = Mapping[str, int]
"""Sizes for the symbols of a stage."""

Arrays = dict[str, "np.ndarray[Any, Any]"]
"""Tensors by name."""

Dtype = str
"""A Triton data type without the TYPE_ prefix: FP32, INT64, BOOL, BYTES (strings) and so on."""

NUMPY_DTYPES: Mapping[Dtype, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
        "BYTES": "object",
    }
)
"""NumPy's name of each data type that a stage may use."""

TENSORRT_DTYPES = frozenset({"BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32"})
"""Data types of inputs and outputs that both TensorRT and Triton's backend for it take."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The name, data type and dims of one input or output.

    Attributes:
        dims: All dims, the batch dim included where the stage has one (then it comes first).
    """

    name: str
    dtype: Dtype
    dims: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if self.dtype not in NUMPY_DTYPES:
            raise ValueError(f"tensor {self.name}: unknown dtype {self.dtype!r}")

    def shape(self, symbols: Shape) -> tuple[int, ...]:
        """The dims with every symbol replaced by its size."""
        return tuple(symbols[d] if isinstance(d, str) else d for d in self.dims)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{','.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest difference that still counts as equal.

    A floating-point element passes if `|got - want| <= atol + rtol * |want|`, an integer if
    `|got - want| <= levels`. Booleans and strings must be exactly equal.
    """

    atol: float = 1e-5
    rtol: float = 0.0
    levels: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes of one symbol for an optimisation profile: smallest, most usual, largest."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 0 < self.min <= self.opt <= self.max:
            raise ValueError(f"not 0 < min <= opt <= max: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSource:
    """A stage that is a PyTorch module.

    Attributes:
        load: Makes the module from the checkpoint, in eval mode. Its `forward` takes the inputs
            in order and returns the outputs in order.
        files: The checkpoint files: what `load` reads.
        code: Python modules whose text decides what `load` returns, by dotted name.
        libraries: Distributions whose versions decide it, beyond torch.
        settings: Whatever else decides it, by name.
        graph: Stages that name the same graph are alike up to the values of their state_dict:
            one of them is exported, the others only get their own weights.
        stored: The same module with its weights left on the disk. Weights of
            `[build] stream_from_mib` and more are exported from there, never held in memory.
    """

    load: Callable[[], "torch.nn.Module"]
    files: tuple[Path, ...] = ()
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    graph: str | None = None
    stored: StoredWeights | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSource:
    """A stage whose ONNX graph is built directly, without PyTorch.

    Attributes:
        build: Makes the ONNX model.
        reference: Computes the outputs by other means (NumPy, a tokenizer library, ...): the
            judge of the graph.
        files: Files that `build` reads.
        code: Python modules whose text decides what `build` returns, by dotted name.
        libraries: Distributions whose versions decide it.
        settings: Whatever else decides it, by name.
    """

    build: Callable[[], "onnx.ModelProto"]
    reference: Callable[[Arrays], Arrays]
    files: tuple[Path, ...] = ()
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One network of a family.

    Attributes:
        name: Name of the ONNX model in the repository; twins add `_trt` or `_py`.
        family: Name of the family that declares it.
        inputs: Tensors in the order of the module's arguments.
        outputs: Tensors in the order of the module's results.
        source: How to make it.
        example: Makes valid inputs for given symbol sizes from a seeded generator.
        shapes: Symbol sizes at which artefacts are compared; the first one traces the export.
            At least two, so that a size that was frozen by an exporter cannot go unseen.
        tolerance: Largest difference between export and source.
        profile: Sizes per symbol for optimisation profiles.
        precision: Precision per target name; `cpu` where a target is not listed.
        engines: Engine kinds that are built from it: names of modules in `builder.engines`. Leave
            out `tensorrt` where a GPU is of no use or its arithmetic not wanted; a stage with
            tensors that TensorRT cannot transport (`TENSORRT_DTYPES`) never has it.
        max_batch_size: 0 where the first dim is not a batch dim.
        serving: Settings of `builder.config.StageOptions` that suit this stage better than
            their defaults; builder.toml has the last word.
        metadata: Free text for people and tools, written into the model's config.
    """

    name: str
    family: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    source: TorchSource | OnnxSource
    example: Callable[[Shape, "np.random.Generator"], Arrays]
    shapes: tuple[Shape, ...]
    tolerance: Tolerance = Tolerance()
    profile: Mapping[str, Range] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=lambda: {"cpu": "fp32"})
    engines: tuple[str, ...] = ("onnxruntime", "tensorrt")
    max_batch_size: int = 0
    serving: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(t.dtype in TENSORRT_DTYPES for t in (*self.inputs, *self.outputs)):
            kinds = tuple(kind for kind in self.engines if kind != "tensorrt")
            object.__setattr__(self, "engines", kinds)
        if len(self.shapes) < 2 and self.symbols:
            raise ValueError(f"stage {self.name}: compare at two shapes or more")
        for shape in self.shapes:
            if missing := self.symbols - set(shape):
                raise ValueError(f"stage {self.name}: no size for {sorted(missing)} in {shape}")

    def precision_at(self, target: str) -> str:
        """The precision that is declared for a target."""
        return self.precision.get(target, self.precision.get("cpu", "fp32"))

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the dynamic dims."""
        tensors = (*self.inputs, *self.outputs)
        return frozenset(d for t in tensors for d in t.dims if isinstance(d, str))
