"""A process group that ends together with this process, even when that is killed with -9.

The group's leader is a small shell that reads from a pipe whose other end only this process has.
When this process is gone, however it went, the read ends and the shell ends the group.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from builder.errors import MissingDependencyError

# The shell ignores SIGTERM, so that "kill -TERM 0" (the whole group) spares it. It is told the
# process id and waits for that process for $1 seconds at most; the clean-up command is "$@".
_SCRIPT = """
trap '' TERM INT HUP
grace=$1; shm=$2; shift 2
read -r pid
read -r _
kill -TERM 0
if [ -n "$pid" ]; then
  i=0
  while [ $i -lt $((grace * 5)) ] && kill -0 "$pid" 2>/dev/null; do sleep 0.2; i=$((i + 1)); done
fi
[ $# -gt 0 ] && "$@" >/dev/null 2>&1
[ -n "$shm" ] && rm -f /dev/shm/"$shm"*
kill -KILL 0
"""


class GuardedProcess:
    """A process, and whatever it starts, in a group of its own that never outlives this process.

    Args:
        command: Program and arguments.
        env: The environment.
        output: Where stdout and stderr go.
        grace: Seconds between SIGTERM and SIGKILL after this process was killed.
        cleanup: Command to run at the end, for what lives outside of the group (a container).
        shm_prefix: Prefix of shared memory regions to remove at the end.

    Raises:
        MissingDependencyError: The program cannot be run.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[bytes],
        grace: int,
        cleanup: Sequence[str] = (),
        shm_prefix: str = "",
    ):
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = tuple(cleanup)
        self._shm_prefix = shm_prefix
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "guard", str(grace), shm_prefix, *cleanup],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self._process = subprocess.Popen(
                list(command),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=self._guard.pid,
            )
        except OSError as error:
            self._end_group()
            raise MissingDependencyError(
                f"cannot be run: {error.strerror or error}",
                where=command[0],
                hint="see builder doctor",
            ) from error
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{self.process.pid}\n".encode())
        self._guard.stdin.flush()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process that was asked for."""
        assert self._process is not None
        return self._process

    def stop(self, timeout: float) -> int:
        """Send SIGTERM, wait for `timeout` seconds, then kill the whole group.

        Returns:
            The exit status of the process; negative is the signal that ended it.
        """
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout)
        finally:
            self._end_group()
        return self.process.wait()

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        if self._process is not None:
            self._process.wait()
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        _wait_for_group(self._guard.pid)
        if self._cleanup and shutil.which(self._cleanup[0]):
            subprocess.run(self._cleanup, capture_output=True, check=False, timeout=30)
        if self._shm_prefix:
            for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)


def _wait_for_group(group: int, timeout: float = 5.0) -> None:
    """Wait until the killed members, other people's children all, are really gone."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.01)
