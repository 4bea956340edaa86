"""Pipelines: a DAG of stages, served as a native ensemble."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.stage import Arrays, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """One stage inside a pipeline.

    Attributes:
        model: Name of the stage.
        inputs: Tensor of the stage -> tensor of the pipeline, for every input of the stage.
        outputs: Tensor of the stage -> tensor of the pipeline, for the outputs that are used.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A DAG of stages with a signature of its own.

    Attributes:
        name: Name of the ensemble.
        family: Name of the family that declares it.
        inputs: Tensors that a client sends. With a max_batch_size above 0, without batch dim.
        outputs: Tensors that a client gets.
        steps: The stages; the order does not matter, the tensor names wire them.
        example: Makes the inputs of a golden request from a seeded generator.
        reference: Computes the outputs by the plain PyTorch (or NumPy) implementation: the
            judge of the pipeline.
        atol: Largest difference of a floating-point output from the reference.
        levels: Largest difference of an integer output, for images: 1 forgives a rounding.
        max_batch_size: 0 where the first dim is not a batch dim.
        description: One line for `builder list`.
    """

    name: str
    family: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    example: Callable[["np.random.Generator"], Arrays]
    reference: Callable[[Arrays], Arrays]
    atol: float = 1e-4
    levels: int = 0
    max_batch_size: int = 0
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def tolerance(self) -> Tolerance:
        """`atol` and `levels` as one."""
        return Tolerance(atol=self.atol, levels=self.levels)
