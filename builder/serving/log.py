"""The log of the server: where it is kept, and what matters in it."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
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


class LogFile:
    """The file that the server writes to, and its text after it is gone.

    Args:
        path: Where to keep it; None keeps it in a temporary file until `close`.
    """

    def __init__(self, path: Path | None):
        self._keep = path
        self._path: Path | None = None
        self._text = ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The new, empty file, to be given to the server.

        Raises:
            RepositoryError: It cannot be written.
        """
        if self._keep is None:
            with tempfile.NamedTemporaryFile(
                prefix="tritonserver-", suffix=".log", delete=False
            ) as file:
                self._path = Path(file.name)
                yield file
            return
        try:
            self._keep.parent.mkdir(parents=True, exist_ok=True)
            output = self._keep.open("wb")
        except OSError as error:
            raise from_os_error(error, "writing the server's log", self._keep) from error
        self._path = self._keep
        with output:
            yield output

    def text(self) -> str:
        """What was written so far; of a long log the last 4 MiB."""
        if self._path is not None:
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _MAX_BYTES))
                self._text = file.read().decode(errors="replace")
        return self._text

    def tail(self, lines: int = 15) -> str:
        """The last lines that matter, indented."""
        kept = [line for line in self.text().splitlines() if line.strip() and not is_noise(line)]
        return "\n".join(f"  {line}" for line in kept[-lines:]) or "  (it said nothing)"

    def close(self) -> None:
        """Remember the text and remove the file if it was a temporary one."""
        self.text()
        if self._keep is None and self._path is not None:
            self._path.unlink(missing_ok=True)
        self._path = None


def is_noise(line: str) -> bool:
    """Whether the line only says that there is no GPU, or belongs to the manual."""
    return bool(_NOISE.search(line) or _MANUAL.match(line))


def port_in_use(text: str) -> int | None:
    """The port that the server could not listen on, according to its log."""
    found = _IN_USE.search(text)
    return int(found[1]) if found else None
