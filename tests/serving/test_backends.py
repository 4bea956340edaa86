import os
import sys
from pathlib import Path

import pytest

from builder.errors import MissingDependencyError, RepositoryError
from builder.serving import backends
from builder.serving.installations import PYTHON_STUB, find_embedded


def test_the_stub_of_this_python_lies_beside_the_backend(tmp_path: Path) -> None:
    out = backends.prepare_backends(tmp_path, python=True, onnxruntime=False)
    embedded = find_embedded()
    assert embedded is not None
    assert embedded.backends is not None
    stubs = embedded.backends.parent / "python_backend_stubs"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = out / "python" / PYTHON_STUB
    assert stub.read_bytes() == (stubs / version / PYTHON_STUB).read_bytes()
    assert os.access(stub, os.X_OK)
    assert (out / "python" / "triton_python_backend_utils.py").is_file()
    # The wheel itself is left as it is.
    assert not (embedded.backends / "python" / PYTHON_STUB).exists()
    assert backends.built(tmp_path) == {"onnxruntime": False, "python": True, "pytorch": True}


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    out = backends.prepare_backends(tmp_path, python=True, onnxruntime=False)
    files = sorted(p for p in out.rglob("*") if p.is_file())
    before = {p: p.stat().st_ino for p in files}
    damaged = out / "pytorch" / "model.py"
    damaged.write_text("# half of i")
    stale = out / "python" / "left_over.so"
    stale.touch()
    backends.prepare_backends(tmp_path, python=True, onnxruntime=False)
    after = {p: p.stat().st_ino for p in sorted(out.rglob("*")) if p.is_file()}
    assert {p for p in files if before[p] != after[p]} == {damaged}
    assert "class TritonPythonModel" in damaged.read_text()
    assert not stale.exists()


def test_a_python_without_stub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Version(tuple[int, ...]):
        major, minor = 3, 99

    monkeypatch.setattr(sys, "version_info", Version((3, 99, 0)))
    with pytest.raises(MissingDependencyError, match=r"no stub for Python 3\.99, only for 3\.10"):
        backends.prepare_backends(tmp_path, python=True, onnxruntime=False)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file in the way")
    with pytest.raises(RepositoryError, match="preparing the backends failed"):
        backends.prepare_backends(tmp_path / "build", python=True, onnxruntime=False)
