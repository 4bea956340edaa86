"""A quick end for the python backend's processes.

Each model of the python backend is a process with an interpreter of its own. When the server
stops, the interpreter takes PyTorch apart, module by module, which is more than a second of a
core per model: several of them used up the time that the server waits for its models. By then the
backend has said goodbye to the server, and there is nothing left to be saved.
"""

import atexit
import os
import sys

_STUB_MODULE = "c_python_backend_utils"
"""Only the backend's own processes have it; they load it after the model."""


def leave_quickly() -> None:
    """End this process without taking the interpreter apart, if it is one of the backend's.

    What was registered with atexit after this call still runs.
    """
    atexit.register(_leave)


def _leave() -> None:
    if _STUB_MODULE in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
