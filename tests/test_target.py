import pytest

from builder.errors import UsageError
from builder.target import CPU, parse_target


@pytest.mark.parametrize(
    ("text", "capability"),
    [("cpu", None), ("sm75", "7.5"), ("SM90 ", "9.0"), ("sm100", "10.0"), ("sm120", "12.0")],
)
def test_targets(text: str, capability: str | None) -> None:
    target = parse_target(text)
    assert target.compute_capability == capability
    assert target.is_gpu == (capability is not None)
    assert CPU.is_gpu is False


@pytest.mark.parametrize("text", ["", "gpu", "sm", "sm9", "sm60", "sm9O", "sm90/../x", "sm1000"])
def test_unknown_targets(text: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        parse_target(text)
