"""The genuine Python bindings of TensorRT, without its libraries and without a GPU.

`pip download` fetches the wheel with the bindings, once, into `build/tensorrt-bindings/`. Its
extension module only needs a handful of C functions to be imported; empty shared libraries that
export them take the place of the gigabytes of the real ones. So every name, argument and
attribute can be checked, and nothing can be built.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "tensorrt-bindings"
PACKAGES = {"11": "tensorrt-cu13-bindings==11.4.0.106", "10": "tensorrt-cu12-bindings==10.16.1.11"}

_SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getPluginRegistry"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def bindings(major: str) -> Path:
    """The folder to put on PYTHONPATH and LD_LIBRARY_PATH; skips where it cannot be made."""
    folder = FOLDER / PACKAGES[major].replace("==", "-")
    if not (folder / "complete").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(PACKAGES[major], folder)
        _make_libraries(major, folder)
        (folder / "tensorrt.py").write_text(
            "import sys\nimport tensorrt_bindings\nsys.modules['tensorrt'] = tensorrt_bindings\n"
        )
        (folder / "complete").touch()
    return folder


def run_with(major: str, code: str, *arguments: str) -> str:
    """Run Python code in a process of its own in which `import tensorrt` is the genuine one."""
    folder = bindings(major)
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "LD_LIBRARY_PATH": str(folder),
        },
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def _download(package: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
    try:
        subprocess.run([*command, package], check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{package} cannot be fetched: {error}")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()


def _make_libraries(major: str, folder: Path) -> None:
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS))
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        try:
            subprocess.run([*command, str(source)], check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"gcc cannot make the empty libraries: {error}")
