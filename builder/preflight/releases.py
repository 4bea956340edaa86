"""What each release of the official container carries; the data is in `releases.toml`."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from builder.errors import UsageError

_FILE = Path(__file__).with_name("releases.toml")
_RELEASE = re.compile(r"[0-9]{2}\.(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """One release of the official container.

    Attributes:
        name: Year and month, for example `26.07`.
        tensorrt: Version of TensorRT, with two or three dots.
        cuda: Version of the CUDA toolkit.
        onnxruntime: Version of ONNX Runtime.
    """

    name: str
    tensorrt: str
    cuda: str
    onnxruntime: str


@cache
def releases() -> Mapping[str, Release]:
    """Every release of the table by name, oldest first."""
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {name: Release(name=name, **table) for name, table in sorted(tables.items())}


def find_release(name: str) -> Release:
    """The release of that name.

    Raises:
        UsageError: The table has no such release.
    """
    known = releases()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"known: {', '.join(known)}" + (f"; did you mean {close[0]}?" if close else "")
    raise UsageError(f"unknown container release {name!r}", hint=hint)


def is_release(name: str) -> bool:
    """Whether a text looks like the name of a release, known or not: a year and a month."""
    return _RELEASE.fullmatch(name) is not None


def same_tensorrt(one: str, other: str) -> bool:
    """Whether two TensorRT versions agree in every part that both of them state, at least three.

    `10.4.0` and `10.4.0.26` agree, as the release notes leave out the last part here and there.
    """
    a, b = one.split("."), other.split(".")
    shared = min(len(a), len(b))
    return shared >= 3 and a[:shared] == b[:shared]
