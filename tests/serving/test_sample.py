import json

from builder.serving.sample import zeros_request


def test_a_request_of_zeros_of_each_type() -> None:
    metadata = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1, "2"]},
            {"name": "b", "datatype": "INT64", "shape": [1]},
            {"name": "c", "datatype": "BOOL", "shape": [1]},
        ]
    }
    body = zeros_request(metadata)
    assert body is not None
    assert [i["data"] for i in json.loads(body)["inputs"]] == [[0.0, 0.0], [0], [False]]
    assert json.loads(body)["inputs"][0]["shape"] == [1, 2]


def test_texts_and_large_inputs_are_left_out() -> None:
    for tensor in (
        {"name": "prompt", "datatype": "BYTES", "shape": [1]},
        {"name": "image", "datatype": "FP32", "shape": [1, 512, 512]},
    ):
        assert zeros_request({"inputs": [tensor]}) is None
