"""Putting a folder in the place of another in one step."""

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100  # <fcntl.h>: relative paths start at the working directory
_RENAME_EXCHANGE = 2  # <linux/fs.h>

# What renameat2 answers where the kernel or the file system cannot exchange.
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def exchange(a: Path, b: Path) -> bool:
    """Swap two paths of one file system atomically; False where that is not possible here.

    Raises:
        OSError: A path is missing, or the folders may not be written.
    """
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


@cache
def _renameat2() -> Any:
    """The function of the C library (glibc 2.28 or newer), or None."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        text, number = ctypes.c_char_p, ctypes.c_int
        function.argtypes = [number, text, number, text, ctypes.c_uint]
        function.restype = number
    return function
