import subprocess
import sys

PROGRAM = """
import atexit, sys
from builder.serving.stub_exit import leave_quickly
atexit.register(print, "taken apart")
leave_quickly()
{stub}
atexit.register(print, "registered later")
print("ran")
sys.exit(3)
"""


def run(stub):
    program = PROGRAM.format(stub=stub)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.split("\n")[:-1], done.returncode


def test_a_process_of_the_python_backend_leaves_quickly():
    stub = 'sys.modules["c_python_backend_utils"] = sys'
    assert run(stub) == (["ran", "registered later"], 0)


def test_other_processes_end_as_ever():
    assert run("") == (["ran", "registered later", "taken apart"], 3)
