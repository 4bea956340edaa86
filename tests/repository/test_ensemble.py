from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from builder.errors import PipelineError
from builder.pipeline import Pipeline, Step
from builder.repository.ensemble import check_pipeline, ensemble_config
from builder.repository.model_config import config_text
from builder.repository.signature import Signature
from builder.stage import Dim, Tensor

SIGNATURES: Mapping[str, Signature] = {
    "pre": Signature((Tensor("raw", "FP32", ("T", 25)),), (Tensor("data", "FP32", ("T", 25)),)),
    "detector": Signature(
        (Tensor("input_data", "FP32", ("T", 25)),),
        (Tensor("score", "FP32", ("T",)), Tensor("flag", "BOOL", ("T",))),
    ),
    "fuse": Signature(
        (Tensor("a", "FP32", ("N",)), Tensor("b", "FP32", ("N",))),
        (Tensor("result", "FP32", ("N",)),),
    ),
}
STEPS = (
    Step("pre", {"raw": "telemetry"}, {"data": "clean"}),
    Step("detector", {"input_data": "clean"}, {"score": "one"}),
    Step("detector", {"input_data": "clean"}, {"score": "two"}),
    Step("fuse", {"a": "one", "b": "two"}, {"result": "answer"}),
)


def make(
    steps: Sequence[Step] = STEPS,
    inputs: Sequence[Tensor] = (Tensor("telemetry", "FP32", ("T", 25)),),
    outputs: Sequence[Tensor] = (Tensor("answer", "FP32", ("T",)),),
    max_batch_size: int = 0,
) -> Pipeline:
    return Pipeline(
        name="anomaly",
        family="test",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        steps=tuple(steps),
        example=lambda rng: {},
        reference=lambda arrays: arrays,
        max_batch_size=max_batch_size,
    )


def failure(
    pipeline: Pipeline,
    signatures: Mapping[str, Signature] = SIGNATURES,
    batch: Mapping[str, int] | None = None,
) -> str:
    with pytest.raises(PipelineError) as caught:
        check_pipeline(pipeline, signatures, batch or {})
    assert "pipeline anomaly" in str(caught.value)
    return str(caught.value)


def changed(index: int, **values: object) -> Pipeline:
    steps = list(STEPS)
    steps[index] = replace(steps[index], **values)  # type: ignore[arg-type]
    return make(steps)


def with_tensor(model: str, tensor: Tensor) -> dict[str, Signature]:
    """The signatures, in which the tensor of that name is replaced."""
    old = SIGNATURES[model]
    new = Signature(
        tuple(tensor if t.name == tensor.name else t for t in old.inputs),
        tuple(tensor if t.name == tensor.name else t for t in old.outputs),
    )
    return {**SIGNATURES, model: new}


def test_a_sound_pipeline_passes_in_any_order_of_steps() -> None:
    check_pipeline(make(), SIGNATURES, {})
    check_pipeline(make(STEPS[::-1]), SIGNATURES, {})


def test_an_unknown_model_is_named_with_a_suggestion() -> None:
    message = failure(changed(1, model="detectr"))
    assert "no model 'detectr'" in message
    assert "did you mean 'detector'?" in message


def test_an_unwired_input_is_named() -> None:
    message = failure(changed(3, inputs={"a": "one"}))
    assert "step fuse" in message
    assert "'b' is not wired" in message


def test_a_misspelt_tensor_of_a_model_is_named_with_a_suggestion() -> None:
    message = failure(changed(0, outputs={"dat": "clean"}))
    assert "no output 'dat'" in message
    assert "did you mean 'data'?" in message


def test_a_tensor_that_nothing_produces_is_named() -> None:
    message = failure(changed(3, inputs={"a": "one", "b": "tow"}))
    assert "'tow', which nothing produces" in message
    assert "did you mean 'two'?" in message


def test_an_output_that_no_step_produces_is_named() -> None:
    message = failure(make(outputs=[Tensor("anwser", "FP32", ("T",))]))
    assert "output 'anwser' is produced by no step" in message


def test_a_tensor_that_is_produced_twice_is_named() -> None:
    message = failure(changed(2, outputs={"score": "one"}))
    assert "'one' is produced by detector.score and by detector.score" in message


def test_a_client_tensor_may_not_be_produced_by_a_step() -> None:
    message = failure(changed(2, outputs={"score": "two", "flag": "telemetry"}))
    assert "'telemetry' is produced by the client and by detector.flag" in message


def test_a_cycle_is_shown_in_the_direction_of_the_data() -> None:
    message = failure(changed(0, inputs={"raw": "answer"}))
    loops = ("pre -> detector -> fuse -> pre", "detector -> fuse -> pre -> detector",
             "fuse -> pre -> detector -> fuse")  # fmt: skip
    assert any(loop in message for loop in loops)


def test_a_step_that_feeds_itself_is_a_cycle() -> None:
    assert "wait for each other: pre -> pre" in failure(changed(0, inputs={"raw": "clean"}))


def test_an_output_may_stay_unwired_but_a_tensor_may_not_lead_nowhere() -> None:
    """The server refuses an ensemble with a tensor that nobody takes."""
    assert "flag" not in STEPS[1].outputs
    check_pipeline(make(), SIGNATURES, {})
    message = failure(changed(1, outputs={"score": "one", "flag": "lost"}))
    assert "step detector: output 'flag' becomes tensor 'lost', which nothing uses" in message
    message = failure(changed(1, outputs={}))
    assert "step detector: no output is wired" in message


def test_an_input_of_the_pipeline_must_be_used() -> None:
    extra = (Tensor("telemetry", "FP32", ("T", 25)), Tensor("more", "FP32", (1,)))
    assert "input 'more' of the pipeline is used by no step" in failure(make(inputs=extra))


def test_a_dtype_mismatch_shows_both_sides() -> None:
    signatures = with_tensor("detector", Tensor("input_data", "FP64", ("T", 25)))
    message = failure(make(), signatures)
    assert "pre.data FP32 [T,25] -> detector.input_data FP64 [T,25]" in message
    assert "FP32 is not FP64" in message


def test_a_size_mismatch_shows_both_sides() -> None:
    signatures = with_tensor("detector", Tensor("input_data", "FP32", ("T", 38)))
    message = failure(make(), signatures)
    assert "pre.data FP32 [T,25] -> detector.input_data FP32 [T,38]" in message
    assert "dim 1 is 25 on the left and 38 on the right" in message


def test_a_rank_mismatch_shows_both_sides() -> None:
    signatures = with_tensor("fuse", Tensor("b", "FP32", ("N", 1)))
    message = failure(make(), signatures)
    assert "detector.score FP32 [T] -> fuse.b FP32 [N,1]: 1 dims are not 2 dims" in message


def test_sizes_are_followed_through_the_graph() -> None:
    """Two fixed sizes meet in a stage that itself is dynamic in both."""
    signatures = {
        **SIGNATURES,
        "short": Signature((Tensor("x", "FP32", ("T", 25)),), (Tensor("y", "FP32", (10,)),)),
        "long": Signature((Tensor("x", "FP32", ("T", 25)),), (Tensor("y", "FP32", (100,)),)),
    }
    steps = (
        Step("short", {"x": "telemetry"}, {"y": "one"}),
        Step("long", {"x": "telemetry"}, {"y": "two"}),
        Step("fuse", {"a": "one", "b": "two"}, {"result": "answer"}),
    )
    message = failure(make(steps), signatures)
    assert "long.y FP32 [100] -> fuse.b FP32 [N]" in message
    assert "dim 0 is 100 on the left and 10 on the right" in message


def test_symbols_of_two_steps_of_one_model_are_independent() -> None:
    double = Signature((Tensor("x", "FP32", ("T",)),), (Tensor("y", "FP32", ("2T",)),))
    steps = (
        Step("double", {"x": "telemetry"}, {"y": "half"}),
        Step("double", {"x": "half"}, {"y": "answer"}),
    )
    pipeline = make(steps, [Tensor("telemetry", "FP32", (5,))], [Tensor("answer", "FP32", (20,))])
    check_pipeline(pipeline, {"double": double}, {})


def test_declared_tensors_of_the_pipeline_are_checked() -> None:
    message = failure(make(inputs=[Tensor("telemetry", "FP32", ("T", 38))]))
    assert "anomaly.telemetry FP32 [T,38] -> pre.raw FP32 [T,25]" in message
    message = failure(make(outputs=[Tensor("answer", "INT32", ("T",))]))
    assert "fuse.result FP32 [N] -> anomaly.answer INT32 [T]" in message


BATCHED = {
    "embed": Signature((Tensor("ids", "INT64", ("B", 77)),), (Tensor("e", "FP32", ("B", 77, 8)),)),
    "head": Signature((Tensor("e", "FP32", ("B", 77, 8)),), (Tensor("y", "FP32", ("B",)),)),
}
BATCHED_STEPS = (
    Step("embed", {"ids": "ids"}, {"e": "e"}),
    Step("head", {"e": "e"}, {"y": "y"}),
)


def batched(max_batch_size: int, ids: tuple[Dim, ...], y: tuple[Dim, ...]) -> Pipeline:
    return make(
        BATCHED_STEPS, [Tensor("ids", "INT64", ids)], [Tensor("y", "FP32", y)], max_batch_size
    )


def test_a_batched_pipeline_states_no_batch_dim() -> None:
    check_pipeline(batched(4, (77,), (1,)), BATCHED, {"embed": 8, "head": 4})
    message = failure(batched(4, ("B", 77), (1,)), BATCHED, {"embed": 8, "head": 4})
    assert "3 dims are not 2 dims" in message


def test_a_pipeline_may_not_take_larger_batches_than_its_models() -> None:
    message = failure(batched(8, (77,), (1,)), BATCHED, {"embed": 8, "head": 4})
    assert "step head: the pipeline takes batches of 8, the model of 4" in message


def test_an_unbatched_pipeline_may_use_batched_models_with_their_full_dims() -> None:
    check_pipeline(batched(0, ("B", 77), ("B", 1)), BATCHED, {"embed": 8, "head": 4})


def test_every_problem_is_reported_at_once() -> None:
    signatures = with_tensor("detector", Tensor("input_data", "FP64", ("T", 38)))
    message = failure(changed(3, inputs={"a": "one"}), signatures)
    assert all(part in message for part in ("not wired", "FP32 is not FP64", "dim 1 is 25"))


@given(st.lists(st.sampled_from([1, 2, 3, "S", "T"]), min_size=1, max_size=5))
def test_a_chain_passes_exactly_if_one_size_fits_every_stage(dims: list[Dim]) -> None:
    """Identity stages in a row: fixed sizes must be equal, symbols take whatever comes."""
    signatures = {
        f"s{i}": Signature((Tensor("x", "FP32", (d,)),), (Tensor("y", "FP32", (d,)),))
        for i, d in enumerate(dims)
    }
    steps = [Step(f"s{i}", {"x": f"t{i}"}, {"y": f"t{i + 1}"}) for i in range(len(dims))]
    pipeline = make(
        steps, [Tensor("t0", "FP32", ("n",))], [Tensor(f"t{len(dims)}", "FP32", ("n",))]
    )
    if len({d for d in dims if isinstance(d, int)}) <= 1:
        check_pipeline(pipeline, signatures, {})
    else:
        assert "on the right" in failure(pipeline, signatures)


def test_the_config_wires_the_steps() -> None:
    pipeline = make()
    text = config_text(ensemble_config(pipeline, names={"detector": "detector_trt"}))
    config = text_format.Parse(text, ModelConfig())
    assert config.platform == "ensemble"
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("telemetry", DataType.Value("TYPE_FP32"), [-1, 25])
    ]
    steps = config.ensemble_scheduling.step
    assert [s.model_name for s in steps] == ["pre", "detector_trt", "detector_trt", "fuse"]
    assert {s.model_version for s in steps} == {-1}
    assert dict(steps[3].input_map) == {"a": "one", "b": "two"}
    assert dict(steps[3].output_map) == {"result": "answer"}
