"""The cases that the families declare, and choosing among them."""

import numpy as np
import pytest

from builder.bench.case import Case, Load, Variant, all_cases, select_cases
from builder.bench.results import FLOOR, NATIVE, PYTHON
from builder.config import Config
from builder.errors import UsageError
from builder.family import Registry


def _case(name: str, config: Config, *, quick: bool = True, models: tuple[str, ...] = ()) -> Case:
    def nothing() -> list[dict[str, object]]:
        return []

    names = models or (name, f"{name}_py")
    variants = tuple(
        Variant(name=variant, loads=(Load(model, nothing),))  # type: ignore[arg-type]
        for variant, model in zip((NATIVE, PYTHON), names, strict=True)
    )
    return Case(
        name=name, title="", unit="", request="", variants=variants, config=config, quick=quick
    )


def test_requests_fit_the_signatures_and_differ(config: Config) -> None:
    registry = Registry.load(config)
    signatures = {name: stage.inputs for name, stage in registry.stages.items()}
    signatures |= {name: pipeline.inputs for name, pipeline in registry.pipelines.items()}
    checked = set()
    for case in all_cases(config):
        assert {variant.name for variant in case.variants} >= {NATIVE, PYTHON, FLOOR}
        for variant in case.variants:
            for load in variant.loads:
                requests = list(load.requests())
                assert len(requests) >= 4
                raw = {b"".join(np.asarray(a).tobytes() for a in r.values()) for r in requests}
                texts = {str([a.tolist() for a in r.values()]) for r in requests}
                assert max(len(raw), len(texts)) == len(requests)
                if load.model in signatures:
                    wanted = {tensor.name for tensor in signatures[load.model]}
                    assert all(set(request) == wanted for request in requests)
                    checked.add(load.model)
    assert checked >= {"SMAP_A-1", "SMAP_T-3", "anomaly_pipeline", "flux_schnell"}


def test_every_variant_of_a_case_gets_the_same_data(config: Config) -> None:
    for case in all_cases(config):
        first, *others = case.variants
        for other in others:
            for a, b in zip(first.loads, other.loads, strict=True):
                for x, y in zip(a.requests(), b.requests(), strict=True):
                    for name in set(x) & set(y):
                        np.testing.assert_array_equal(x[name], y[name])


def test_cases_are_chosen_by_their_name_or_by_a_model(config: Config) -> None:
    known = [_case("one", config), _case("two", config, models=("m1", "m2"))]
    assert [c.name for c in select_cases(known, ["one"], [], quick=False)] == ["one"]
    assert [c.name for c in select_cases(known, ["m?"], [], quick=False)] == ["two"]
    assert [c.name for c in select_cases(known, ["*"], [], quick=False)] == ["one", "two"]


def test_a_quick_run_leaves_out_what_takes_long_unless_it_is_named(config: Config) -> None:
    known = [_case("one", config), _case("slow", config, quick=False)]
    assert [c.name for c in select_cases(known, [], [], quick=True)] == ["one"]
    assert [c.name for c in select_cases(known, ["slow"], [], quick=True)] == ["slow"]


def test_variants_are_chosen_by_name(config: Config) -> None:
    [case] = select_cases([_case("one", config)], [], [PYTHON], quick=False)
    assert [variant.name for variant in case.variants] == [PYTHON]
    assert case.info.variants == {PYTHON: ("one_py",)}


@pytest.mark.parametrize(("names", "variants"), [(["nope"], []), ([], ["trt"])])
def test_what_is_unknown_is_named(config: Config, names: list[str], variants: list[str]) -> None:
    with pytest.raises(UsageError, match=r"nope|trt") as caught:
        select_cases([_case("one", config)], names, variants, quick=False)
    assert "one" in str(caught.value.hint) or "native, python" in str(caught.value.hint)


def test_clients_must_be_shared_evenly(config: Config) -> None:
    variant = Variant(name=NATIVE, loads=(Load("a", list), Load("b", list)))
    with pytest.raises(ValueError, match="2 loads"):
        Case(
            name="x",
            title="",
            unit="",
            request="",
            variants=(variant,),
            config=config,
            concurrency=(3,),
        )
