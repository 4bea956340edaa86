from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from builder.config import StageOptions
from builder.errors import ConfigError, RepositoryError
from builder.repository.model_config import (
    config_dtype,
    config_text,
    dtype_of,
    parse_policy,
    policy_text,
    read_config,
    stage_config,
)
from builder.repository.names import check_name, unsafe
from builder.repository.signature import Signature
from builder.stage import NUMPY_DTYPES, Tensor

UNBATCHED = Signature(
    (Tensor("input_data", "FP32", ("T", 25)), Tensor("text", "BYTES", (1,))),
    (Tensor("score", "FP32", ("T",)), Tensor("flag", "BOOL", ())),
)
BATCHED = Signature(
    (Tensor("x", "FP16", ("B", "T", 8)), Tensor("length", "INT64", ("B",))),
    (Tensor("y", "FP32", ("B", 8)),),
)


def make(signature: Signature = UNBATCHED, **given: Any) -> ModelConfig:
    """The config that a server would read back from the text."""
    options = {
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "options": StageOptions(),
        "metadata": {},
    }
    text = config_text(stage_config("m", signature, **{**options, **given}))
    return text_format.Parse(text, ModelConfig())


def test_all_dims_are_written_without_batching() -> None:
    config = make()
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("input_data", DataType.Value("TYPE_FP32"), [-1, 25]),
        ("text", DataType.Value("TYPE_STRING"), [1]),
    ]
    assert [(o.name, list(o.dims)) for o in config.output] == [("score", [-1]), ("flag", [1])]
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert not any(o.HasField("reshape") for o in config.output)


def test_the_batch_dim_is_left_out_with_batching() -> None:
    config = make(BATCHED, max_batch_size=16)
    assert [list(i.dims) for i in config.input] == [[-1, 8], [1]]
    assert [i.HasField("reshape") for i in config.input] == [False, True]
    assert list(config.input[1].reshape.shape) == []
    assert config.HasField("dynamic_batching")


def test_a_fixed_first_dim_cannot_be_batched() -> None:
    with pytest.raises(RepositoryError, match="text BYTES"):
        make(max_batch_size=4)


def test_options_reach_the_config() -> None:
    config = make(
        BATCHED,
        max_batch_size=16,
        options=StageOptions(
            instances=2,
            intra_op_threads=3,
            inter_op_threads=0,
            preferred_batch_sizes=(4, 8),
            max_queue_delay_us=500,
            response_cache=True,
            version_policy="specific:3,1",
            warmup=False,
        ),
        metadata={"subsystem": "EPS"},
        instance_kind="KIND_GPU",
        graph_level=-1,
    )
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, 1)]
    assert config.response_cache.enable
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert not config.model_warmup
    assert config.optimization.graph.level == -1
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert values == {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "0",
        "subsystem": "EPS",
    }


def test_thread_settings_use_the_names_of_the_backend() -> None:
    assert set(make(backend="pytorch").parameters) == {
        "INTRA_OP_THREAD_COUNT",
        "INTER_OP_THREAD_COUNT",
    }
    assert not make(backend="tensorrt").parameters


def test_the_warmup_request_has_a_valid_shape() -> None:
    warmup = make(warmup_sizes={"T": 10}).model_warmup[0]
    assert warmup.batch_size == 1
    sent = {name: (list(i.dims), i.data_type, i.zero_data) for name, i in warmup.inputs.items()}
    assert sent == {
        "input_data": ([10, 25], DataType.Value("TYPE_FP32"), True),
        "text": ([1], DataType.Value("TYPE_STRING"), True),
    }
    batched = make(BATCHED, max_batch_size=2).model_warmup[0]
    assert {n: list(i.dims) for n, i in batched.inputs.items()} == {"x": [1, 8], "length": [1]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": 0}, "instances"),
        ({"intra_op_threads": -1}, "negative"),
        ({"dynamic_batching": True}, "no batch dim"),
        ({"version_policy": "newest"}, "newest"),
        ({"version_policy": "latest:0"}, "latest:0"),
        ({"version_policy": "specific:"}, "specific:"),
    ],
)
def test_bad_options_name_the_setting(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(options=replace(StageOptions(), **options))
    assert caught.value.where == 'builder.toml [stages."m"]'


def test_a_preferred_size_above_the_maximum_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"32.*16"):
        make(BATCHED, max_batch_size=16, options=StageOptions(preferred_batch_sizes=(32,)))


def test_metadata_may_not_hide_a_backend_parameter() -> None:
    with pytest.raises(ConfigError, match="intra_op_thread_count"):
        make(metadata={"intra_op_thread_count": "8"})


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", ".hidden", "", "a\n", "-rf"])
def test_unsafe_file_names_never_reach_a_config(name: str) -> None:
    with pytest.raises(RepositoryError):
        make(default_model_filename=name)
    with pytest.raises(RepositoryError):
        make(cc_model_filenames={"9.0": name})


def test_plans_per_compute_capability() -> None:
    config = make(cc_model_filenames={"9.0": "model_sm90.plan", "7.5": "model_sm75.plan"})
    assert dict(config.cc_model_filenames) == {
        "7.5": "model_sm75.plan",
        "9.0": "model_sm90.plan",
    }
    with pytest.raises(RepositoryError, match="sm90"):
        make(cc_model_filenames={"sm90": "x.plan"})


@pytest.mark.parametrize("text", ["all", "latest:1", "latest:3", "specific:1,3"])
def test_policies_survive_a_round_trip(text: str) -> None:
    assert policy_text(ModelConfig(version_policy=parse_policy(text))) == text


def test_equal_configs_give_equal_text() -> None:
    one = stage_config(
        "m", BATCHED, backend="onnxruntime", max_batch_size=4, options=StageOptions(),
        metadata={"b": "2", "a": "1"},
    )  # fmt: skip
    other = stage_config(
        "m", BATCHED, backend="onnxruntime", max_batch_size=4, options=StageOptions(),
        metadata={"a": "1", "b": "2"},
    )  # fmt: skip
    assert config_text(one) == config_text(other)
    assert config_text(one).startswith("# generated")


def test_every_stage_dtype_has_a_config_dtype() -> None:
    for dtype in NUMPY_DTYPES:
        name = DataType.Name(config_dtype(dtype))
        assert name == ("TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}")
        assert dtype_of(config_dtype(dtype)) == dtype


def test_a_syntax_error_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "m"\nbackend: "x"\nmax_batch: 3\n')
    with pytest.raises(RepositoryError, match=r"config\.pbtxt:3: .*max_batch"):
        read_config(path)


@given(st.text(max_size=20))
def test_a_safe_name_stays_within_its_folder(name: str) -> None:
    if unsafe(name) is None:
        path = Path("/repository/group") / name
        assert path.parent == Path("/repository/group")
        assert path.resolve() == path
        assert name.isprintable()
        assert check_name(name, "x") == name
    else:
        with pytest.raises(RepositoryError):
            check_name(name, "x")


@pytest.mark.parametrize("name", ["SMAP_A-1", "dit_step", "model.onnx", "model.onnx.data", "v1.2"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert unsafe(name) is None


@pytest.mark.parametrize(("device", "kind"), [("auto", 2), ("cpu", 2), ("gpu", 1)])
def test_the_device_of_the_stage_chooses_the_kind_of_instance(device: str, kind: int) -> None:
    group = make(options=StageOptions(device=device, instances=3)).instance_group[0]
    assert (group.kind, group.count) == (kind, 3)


def test_onnx_models_on_the_gpu_compute_in_full_fp32() -> None:
    accelerators = make(options=StageOptions(device="gpu")).optimization.execution_accelerators
    (cuda,) = accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    for config in (
        make(options=StageOptions(device="cpu")),
        make(options=StageOptions(device="gpu"), backend="tensorrt"),
    ):
        assert not config.optimization.HasField("execution_accelerators")


def test_an_engine_kind_may_choose_the_instances_itself() -> None:
    config = make(options=StageOptions(device="cpu"), instance_kind="KIND_GPU")
    assert config.instance_group[0].kind == 1


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ConfigError, match="device is 'cuda'"):
        make(options=StageOptions(device="cuda"))
