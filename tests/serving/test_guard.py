"""The guarded group ends with its parent: with stand-ins for the server, and without one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.errors import MissingDependencyError
from builder.serving.guard import GuardedProcess

# A parent that guards a shell, which has a child of its own that ignores SIGTERM.
PARENT = """
import os, sys, time
from builder.serving.guard import GuardedProcess
script = "trap '' TERM; sleep 600 & echo $! > child; echo $$ > server; wait; sleep 600"
with open("out", "wb") as out:
    GuardedProcess(["/bin/sh", "-c", script], env=os.environ, output=out, grace=1,
                   cleanup=["/bin/sh", "-c", "touch cleaned"])
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def test_kill_9_of_the_parent_leaves_nothing(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path)
    try:
        files = [tmp_path / "server", tmp_path / "child"]
        assert wait_for(lambda: all(f.exists() and f.read_text().strip() for f in files))
        pids = [int(f.read_text()) for f in files]
        assert all(map(alive, pids))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_for(lambda: not any(map(alive, pids)))
    assert (tmp_path / "cleaned").exists()


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 & echo $! > child; wait; sleep 600"
    with (tmp_path / "out").open("wb") as out:
        process = GuardedProcess(
            ["/bin/sh", "-c", f"cd {tmp_path}; {script}"], env=os.environ, output=out, grace=1
        )
    assert wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    assert process.stop(0.3) == -signal.SIGKILL
    assert not alive(int((tmp_path / "child").read_text()))


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, pytest.raises(MissingDependencyError) as caught:
        GuardedProcess(["/no/such/tritonserver"], env=os.environ, output=out, grace=1)
    assert "/no/such/tritonserver: cannot be run" in str(caught.value)
