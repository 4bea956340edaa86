import pytest

from builder.errors import UsageError
from builder.preflight.releases import find_release, is_release, releases, same_tensorrt


def test_every_release_of_the_table_is_complete() -> None:
    assert len(releases()) >= 8
    for name, release in releases().items():
        assert is_release(name)
        for version in (release.tensorrt, release.cuda, release.onnxruntime):
            assert 2 <= version.count(".") <= 3
            assert all(part.isdigit() for part in version.split("."))


def test_newer_releases_never_carry_older_software() -> None:
    def key(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    found = [releases()[name] for name in sorted(releases())]
    for attribute in ("tensorrt", "cuda", "onnxruntime"):
        versions = [key(getattr(release, attribute)) for release in found]
        assert versions == sorted(versions)


def test_a_release_is_found_or_a_close_one_is_named() -> None:
    assert find_release("26.07").tensorrt == "10.14.1.48"
    with pytest.raises(UsageError, match=r"did you mean 26\.07\?"):
        find_release("26.7")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.4.0", "10.4.0.26", True),
        ("10.4.0.26", "10.4.0.27", False),
        ("10.4", "10.4.0", False),
        ("10.14.1.48", "10.14.1.48", True),
        ("10.14.1.48", "11.14.1.48", False),
    ],
)
def test_versions_are_compared_by_what_both_state(one: str, other: str, same: bool) -> None:
    assert same_tensorrt(one, other) is same
    assert same_tensorrt(other, one) is same


@pytest.mark.parametrize("name", ["26.13", "2026.07", "26.07-py3", "26.07 && true", ""])
def test_what_is_no_release_is_seen(name: str) -> None:
    assert not is_release(name)
