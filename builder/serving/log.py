"""The log of the server: where it is kept, and what matters in it."""

import os
import re
import tempfile
from pathlib import Path
from typing import IO

from builder.errors import from_os_error

_MAX_BYTES = 4 << 20

# What every server without a GPU says; it is no sign of trouble.
_NOISE = re.compile(
    r"pinned_memory_manager|cuda_memory_manager|CudaDriverHelper|Failed to initialize NVML"
    r"|DCGM unable to start|Collecting CPU metrics"
    r"|CUDA driver version is insufficient"
)
# A wrong argument makes the server print its manual: some 300 lines around one that matters.
_MANUAL = re.compile(r"\t|  --|Usage: tritonserver|[A-Z][A-Za-z/ ]+:$")
_IN_USE = re.compile(r"Socket '\S*?:(\d+)' already in use")

_CREATING = re.compile(r'^E.*tritonserver\.cc:\d+\] "(?P<reason>.*)"$', re.MULTILINE)
_ABOUT_MODELS = re.compile(r"failed to load all models|load failed for model|failed to load")


class LogFile:
    """The file that the server writes to, and its text after it is gone.

    Args:
        path: Where to keep it; None keeps it in a temporary file without a name, of which
            nothing is left when this process is gone, however it ended.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._file: IO[bytes] | None = None
        self._text = ""

    def open(self) -> IO[bytes]:
        """A new, empty file for the server's output; `close` closes it.

        Raises:
            RepositoryError: It cannot be written.
        """
        self.close()
        try:
            if self._path is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b")
        except OSError as error:
            where = self._path or tempfile.gettempdir()
            raise from_os_error(error, "writing the server's log", where) from error
        return self._file

    def text(self) -> str:
        """What was written so far; of a long log the last 4 MiB."""
        if self._file is not None:
            # pread: the server writes at the position of this very file.
            number = self._file.fileno()
            start = max(0, os.fstat(number).st_size - _MAX_BYTES)
            self._text = os.pread(number, _MAX_BYTES, start).decode(errors="replace")
        return self._text

    def tail(self, lines: int = 15) -> str:
        """The last lines that matter, indented."""
        kept = [line for line in self.text().splitlines() if line.strip() and not is_noise(line)]
        return "\n".join(f"  {line}" for line in kept[-lines:]) or "  (it said nothing)"

    def close(self) -> None:
        """Remember the text and close the file."""
        self.text()
        if self._file is not None:
            self._file.close()
            self._file = None


def is_noise(line: str) -> bool:
    """Whether the line only says that there is no GPU, or belongs to the manual."""
    return bool(_NOISE.search(line) or _MANUAL.match(line))


def port_in_use(text: str) -> int | None:
    """The port that the server could not listen on, according to its log."""
    found = _IN_USE.search(text)
    return int(found[1]) if found else None


def failed_creation(text: str) -> str | None:
    """Why the server could not be created, according to its log; models aside.

    With `--exit-on-error=false` it then neither ends nor listens.
    """
    reasons = [found["reason"] for found in _CREATING.finditer(text)]
    return next((reason for reason in reasons if not _ABOUT_MODELS.search(reason)), None)
