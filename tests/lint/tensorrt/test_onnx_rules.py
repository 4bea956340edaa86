"""What each rule of the operator preflight finds, and what it leaves alone."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from builder.lint.model import Severity
from builder.lint.tensorrt.model import OnnxFinding
from builder.lint.tensorrt.operators import operator_table
from builder.lint.tensorrt.runner import onnx_rules

from .conftest import Find, integers

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT64, BOOL, STRING = TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
X = ("x", FLOAT, ["T", 4])
Y = ("y", FLOAT, ["T", 4])
node = helper.make_node


def codes(findings: list[OnnxFinding]) -> list[str]:
    assert all(f.message and f.remedy and f.where for f in findings)
    return [finding.code for finding in findings]


def test_a_sound_graph_has_no_findings(find: Find) -> None:
    nodes = [
        node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        node("Sub", ["x", "m"], ["d"]),
        node("Relu", ["d"], ["y"]),
    ]
    assert find(nodes, [X], [Y], [integers("axes", [1])]) == []


def test_every_rule_is_tested_and_numbered() -> None:
    found = [rule.code for rule in onnx_rules()]
    assert found == [f"ON{n:03}" for n in range(1, len(found) + 1)]
    text = Path(__file__).read_text()
    assert all(f'"{code}"' in text for code in found)


@pytest.mark.parametrize(
    ("opset", "expected"), [(8, ["ON001"]), (9, []), (24, []), (25, ["ON001"])]
)
def test_opset(find: Find, opset: int, expected: list[str]) -> None:
    assert codes(find([node("Relu", ["x"], ["y"])], [X], [Y], opset=opset)) == expected


def test_an_operator_without_importer(find: Find) -> None:
    found = find([node("Det", ["x"], ["y"])], [("x", FLOAT, [4, 4])], [("y", FLOAT, [])])
    assert codes(found) == ["ON002"]
    assert "takes no Det" in found[0].message


def test_sequences_are_named_as_operators_and_as_types(find: Find) -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["parts"]),
        node("ConcatFromSequence", ["parts"], ["y"], axis=0),
    ]
    found = find(nodes, [X], [("y", FLOAT, None)])
    assert {"ON002", "ON003"} <= set(codes(found))
    assert "SEQUENCE" in next(f.message for f in found if f.code == "ON003")


def test_an_operator_of_another_domain(find: Find) -> None:
    fused = node("FusedGemm", ["x"], ["y"], domain="com.microsoft")
    found = find([fused], [X], [Y], domains=["com.microsoft"])
    assert codes(found) == ["ON002"]
    assert "com.microsoft::FusedGemm" in found[0].message


def test_operators_inside_a_loop_are_found(find: Find) -> None:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Det", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [4, 4]),
        ],
        [
            helper.make_tensor_value_info("on", BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, []),
        ],
    )
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    count = helper.make_tensor("n", INT64, [], [3])
    assert codes(find([loop], [("x", FLOAT, [4, 4])], [("y", FLOAT, None)], [count]))[0] == "ON002"


def test_strings_and_unsigned_integers(find: Find) -> None:
    found = find([node("Identity", ["x"], ["y"])], [("x", STRING, [1])], [("y", STRING, [1])])
    assert codes(found) == ["ON003"]
    assert (found[0].count, found[0].where) == (2, "input x")
    u64 = TensorProto.UINT64
    assert "ON003" in codes(
        find([node("Cast", ["x"], ["c"], to=u64), node("Cast", ["c"], ["y"], to=FLOAT)], [X], [Y])
    )


def test_uint8_is_fine_as_an_input_that_is_cast(find: Find) -> None:
    u8 = TensorProto.UINT8
    cast = node("Cast", ["x"], ["y"], to=FLOAT)
    assert find([cast], [("x", u8, ["T", 4])], [Y]) == []
    concat = node("Concat", ["x", "x"], ["y"], axis=0)
    found = find([concat], [("x", u8, ["T", 4])], [("y", u8, ["N", 4])])
    assert codes(found) == ["ON005"]
    assert "not UINT8" in found[0].message


def test_fp64_is_a_warning(find: Find) -> None:
    nodes = [node("Cast", ["x"], ["d"], to=DOUBLE), node("Cast", ["d"], ["y"], to=FLOAT)]
    found = find(nodes, [X], [Y])
    assert codes(found) == ["ON004"]
    assert found[0].severity is Severity.WARNING


def test_a_type_that_the_operator_does_not_take(find: Find) -> None:
    nodes = [node("CumSum", ["x", "axis"], ["y"])]
    axis = helper.make_tensor("axis", INT64, [], [0])
    found = find(nodes, [("x", INT64, ["T"])], [("y", INT64, ["T"])], [axis])
    assert codes(found) == ["ON005"]
    assert "not INT64" in found[0].message


def test_where_is_judged_by_its_values_not_by_its_condition(find: Find) -> None:
    nodes = [node("Where", ["c", "x", "x"], ["y"])]
    assert find(nodes, [("c", BOOL, ["T", 4]), X], [Y]) == []


def test_axes_from_the_caller(find: Find) -> None:
    found = find(
        [node("ReduceSum", ["x", "axes"], ["y"])],
        [("x", FLOAT, [2, 4]), ("axes", INT64, [1])],
        [("y", FLOAT, [2, 1])],
    )
    assert codes(found) == ["ON006"]
    assert "input 1 of ReduceSum (axes)" in found[0].message


def test_axes_computed_from_constants_and_fixed_sizes_are_constants(find: Find) -> None:
    nodes = [
        node("Shape", ["x"], ["width"], start=1, end=2),  # 4
        node("Sub", ["width", "three"], ["axes"]),
        node("ReduceSum", ["x", "axes"], ["y"]),
    ]
    assert find(nodes, [X], [("y", FLOAT, ["T", 1])], [integers("three", [3])]) == []
    dynamic = [node("Shape", ["x"], ["width"], start=0, end=1), *nodes[1:]]
    assert "ON006" in codes(find(dynamic, [X], [("y", FLOAT, None)], [integers("three", [3])]))


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        (
            [node("Resize", ["x", "", "s"], ["y"], mode="cubic")],
            [1, 1, 4, 4],
            "takes mode nearest, linear, not cubic",
        ),
        (
            [node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], dilations=[2, 2])],
            [1, 1, 4, 4],
            "takes dilations 1, not [2, 2]",
        ),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[2])], [1, 1, 4], "takes rank 4 or 5, not 3"),
    ],
)
def test_restrictions(find: Find, nodes: list[object], shape: list[int], message: str) -> None:
    scales = helper.make_tensor("s", FLOAT, [4], [1, 1, 2, 2])
    found = find(nodes, [("x", FLOAT, shape)], [("y", FLOAT, None)], [scales])
    assert codes(found) == ["ON007"]
    assert message in found[0].message


def test_an_output_that_is_not_computed_matters_only_if_it_is_used(find: Find) -> None:
    pool = node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])
    io = ([("x", FLOAT, [1, 1, 4, 4])], [("y", FLOAT, [1, 1, 3, 3])])
    assert find([pool], *io) == []
    used = [pool, node("Cast", ["indices"], ["z"], to=FLOAT)]
    found = find(used, io[0], [*io[1], ("z", FLOAT, None)])
    assert codes(found) == ["ON007"]
    assert "no output 1 (indices)" in found[0].message


def test_pow_with_a_half_exponent(find: Find) -> None:
    two = helper.make_tensor("two", HALF, [], [2.0])
    found = find([node("Pow", ["x", "two"], ["y"])], [X], [Y], [two])
    assert codes(found) == ["ON008"]
    assert "FP32, FP16" in found[0].message


def test_a_half_converted_graph_fails_inference_too(find: Find) -> None:
    half = helper.make_tensor("half", HALF, [4], [1.0] * 4)
    assert set(codes(find([node("Add", ["x", "half"], ["y"])], [X], [Y], [half]))) == {
        "ON008",
        "ON012",
    }


def test_nonzero_is_a_warning(find: Find) -> None:
    found = find([node("NonZero", ["x"], ["y"])], [X], [("y", INT64, [2, "N"])])
    assert codes(found) == ["ON009"]
    assert found[0].severity is Severity.WARNING


@pytest.mark.parametrize(("constant", "expected"), [(True, []), (False, ["ON010"])])
def test_a_loop_that_collects(find: Find, constant: bool, expected: list[str]) -> None:
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["on"]),
            node("Identity", ["v"], ["w"]),
            node("Identity", ["v"], ["scan"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on", BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, [4]),
            helper.make_tensor_value_info("scan", FLOAT, [4]),
        ],
    )
    loop = node("Loop", ["n", "", "x"], ["last", "y"], body=body)
    count = helper.make_tensor("n", INT64, [], [3])
    inputs = [("x", FLOAT, [4])] + ([] if constant else [("n", INT64, [])])
    found = find([loop], inputs, [("y", FLOAT, ["N", 4])], [count] if constant else [])
    assert codes(found) == expected


def test_a_reshape_to_a_list_of_unknown_length(find: Find) -> None:
    inputs = [X, ("sizes", INT64, ["N"])]
    found = find(
        [node("Reshape", ["x", "sizes"], ["r"]), node("Relu", ["r"], ["y"])],
        inputs,
        [("y", FLOAT, None)],
    )
    assert codes(found) == ["ON011"]
    assert "Reshape" in found[0].message


def test_an_input_without_shape(find: Find) -> None:
    found = find([node("Relu", ["x"], ["y"])], [("x", FLOAT, None)], [("y", FLOAT, None)])
    assert codes(found) == ["ON011"]
    assert found[0].where == "input x"


def test_sizes_that_do_not_fit(find: Find) -> None:
    inputs = [("x", FLOAT, [2, 3]), ("z", FLOAT, [2, 4])]
    found = find([node("MatMul", ["x", "z"], ["y"])], inputs, [("y", FLOAT, [2, 4])])
    assert codes(found) == ["ON012"]


def test_equal_findings_are_counted(find: Find) -> None:
    nodes = [node("Det", ["x"], [name], name=name) for name in ("first", "second", "y")]
    found = find(nodes, [("x", FLOAT, [4, 4])], [("y", FLOAT, [])])
    assert [(f.where, f.count) for f in found] == [("first", 3)]
    assert "first (and 2 more)" in str(found[0])


def test_the_table_names_only_operators_that_exist() -> None:
    """Independent of the table: the schemas of the onnx package, and what was removed from it."""
    from onnx import defs

    known = {schema.name for schema in defs.get_all_schemas_with_history()}
    historic = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    table = operator_table()
    newest = {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"}
    assert set(table.operators) - known - historic - newest == set()
    for section in (table.constant_inputs, table.attributes, table.ranks):
        assert set(section) <= set(table.operators)


def test_the_table_names_only_attributes_and_inputs_that_exist() -> None:
    from onnx import defs

    for name, attributes in operator_table().attributes.items():
        history = [s for s in defs.get_all_schemas_with_history() if s.name == name]
        have = {attribute for schema in history for attribute in schema.attributes}
        assert not history or set(attributes) <= have
    for name, positions in operator_table().constant_inputs.items():
        history = [s for s in defs.get_all_schemas_with_history() if s.name == name]
        assert all(max(s.max_input for s in history) > p for p in positions)
