"""What a GPU does meanwhile, as nvidia-smi sees it.

Not run on a GPU yet; the program's output is imitated in the tests.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from types import TracebackType
from typing import IO

_PERIOD_MS = 500
_QUERY = "--query-gpu=utilization.gpu,memory.used"


class GpuWatch:
    """Runs nvidia-smi from entering to leaving the block; does nothing where there is none."""

    def __init__(self, path: str | None = None):
        self._program = shutil.which("nvidia-smi", path=path or os.environ.get("PATH", ""))
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self.percent: float | None = None
        self.mib: float | None = None

    def __enter__(self) -> "GpuWatch":
        if self._program is not None:
            with contextlib.suppress(OSError):
                self._output = tempfile.TemporaryFile()
                self._process = subprocess.Popen(
                    [self._program, _QUERY, "--format=csv,noheader,nounits", f"-lms={_PERIOD_MS}"],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._output is not None:
            self._output.seek(0)
            self.percent, self.mib = read_samples(self._output.read().decode(errors="replace"))
            self._output.close()


def read_samples(text: str) -> tuple[float | None, float | None]:
    """Mean utilisation in percent and largest memory use in MiB; None where nothing is said.

    Args:
        text: Lines such as `37, 1024`. With several GPUs they are mixed.
    """
    percents, sizes = [], []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 2:
            continue
        with contextlib.suppress(ValueError):
            percents.append(float(parts[0]))
        with contextlib.suppress(ValueError):
            sizes.append(float(parts[1]))
    mean = sum(percents) / len(percents) if percents else None
    return mean, max(sizes, default=None)
