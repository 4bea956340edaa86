"""What the TensorRT ONNX parser takes; the data is in `operators.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("operators.toml")


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """The parser's list of operators.

    Attributes:
        tensorrt: Version of TensorRT that the list belongs to.
        opsets: Oldest and newest opset of the default domain.
        io_types: Data types of a graph's inputs and outputs.
        types: Data types within a graph.
        quantized_types: Those that exist between QuantizeLinear and DequantizeLinear only.
        narrowed_types: Those that are taken, but computed with fewer bits.
        operators: Operator -> data types that it takes.
        constant_inputs: Operator -> positions of inputs that must be constants.
        unused_outputs_from: Operator -> first output that must not be used.
        unused_inputs_from: Operator -> first input that must not be used.
        attributes: Operator -> attribute -> values that are taken.
        ranks: Operator -> ranks that its first input may have.
        data_dependent: Operators whose output's shape depends on values.
    """

    tensorrt: str
    opsets: tuple[int, int]
    io_types: frozenset[str]
    types: frozenset[str]
    quantized_types: frozenset[str]
    narrowed_types: frozenset[str]
    operators: Mapping[str, frozenset[str]]
    constant_inputs: Mapping[str, tuple[int, ...]]
    unused_outputs_from: Mapping[str, int]
    unused_inputs_from: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, tuple[Any, ...]]]
    ranks: Mapping[str, tuple[int, ...]]
    data_dependent: frozenset[str]


@cache
def operator_table() -> OperatorTable:
    """The list, read once."""
    data = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return OperatorTable(
        tensorrt=data["tensorrt"],
        opsets=(data["opset_min"], data["opset_max"]),
        io_types=frozenset(data["io_types"]),
        types=frozenset(data["types"]),
        quantized_types=frozenset(data["quantized_types"]),
        narrowed_types=frozenset(data["narrowed_types"]),
        operators={
            name: frozenset(group["types"])
            for group in data["group"]
            for name in group["operators"]
        },
        constant_inputs={name: tuple(v) for name, v in data["constant_inputs"].items()},
        unused_outputs_from=data["unused_outputs_from"],
        unused_inputs_from=data["unused_inputs_from"],
        attributes={
            name: {attribute: tuple(values) for attribute, values in table.items()}
            for name, table in data["attributes"].items()
        },
        ranks={name: tuple(values) for name, values in data["ranks"].items()},
        data_dependent=frozenset(data["data_dependent"]["operators"]),
    )
