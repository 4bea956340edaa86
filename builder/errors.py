"""Every error that the builder raises on purpose.

    BuilderError                 exit code 1: something failed, or there are findings
    ├── UsageError               exit code 2: the call or the configuration is wrong
    │   └── ConfigError          builder.toml, an environment variable or a flag
    ├── MissingDependencyError   a package, compiler or server that is not installed
    ├── CheckpointError          a checkpoint that cannot be loaded
    ├── DataError                telemetry or other input data that cannot be used
    ├── ExportError              torch -> ONNX failed
    ├── ParityError              an artefact differs from what it was made from
    ├── EngineError              ONNX -> engine failed
    ├── PipelineError            the stages of a pipeline do not fit together
    ├── RepositoryError          the model repository cannot be read or written
    └── ServerError              tritonserver did not start, load or answer

A message says what is wrong, where, and what to do about it.
"""

import errno
from pathlib import Path


class BuilderError(Exception):
    """Base of all errors with a message for the user.

    Args:
        what: What went wrong, as a sentence without the final period.
        where: The file, model, tensor or setting that it concerns.
        hint: What the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None):
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what, self.where, hint)

    def __str__(self) -> str:
        message = self.what if self.where is None else f"{self.where}: {self.what}"
        return message if self.hint is None else f"{message}\n  -> {self.hint}"


class UsageError(BuilderError):
    """The command line or an argument is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting in builder.toml, the environment or a flag is wrong."""


class MissingDependencyError(BuilderError):
    """Something that has to be installed is not."""


class CheckpointError(BuilderError):
    """A checkpoint is missing, corrupt, unsafe or of the wrong shape."""


class DataError(BuilderError):
    """Input data is missing, corrupt or of the wrong shape."""


class ExportError(BuilderError):
    """A stage could not be exported to ONNX."""


class ParityError(BuilderError):
    """An artefact does not compute what it was made from."""


class EngineError(BuilderError):
    """An engine could not be built from an export."""


class PipelineError(BuilderError):
    """The steps of a pipeline do not fit together."""


class RepositoryError(BuilderError):
    """The model repository could not be read or written."""


class ServerError(BuilderError):
    """The inference server did not start, load a model or answer."""


def from_os_error(error: OSError, doing: str, path: str | Path) -> BuilderError:
    """Turn an OSError met while `doing` something with `path` into a message with a remedy."""
    hints = {
        errno.ENOSPC: "free some space on that file system and run the command again; "
        "what was published before is untouched",
        errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
        errno.EACCES: "check the owner and the permissions of that path",
        errno.EROFS: "that file system is mounted read-only: choose another folder",
        errno.ENOENT: "check that the path exists",
    }
    reason = error.strerror or str(error)
    return RepositoryError(
        f"{doing} failed: {reason}", where=path, hint=hints.get(error.errno or 0)
    )
