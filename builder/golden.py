"""Golden requests: inputs and expected outputs that are kept beside what they prove."""

import io
import zipfile
from pathlib import Path

from builder.errors import RepositoryError
from builder.stage import Arrays

GOLDEN = "golden.npz"


def golden_bytes(inputs: Arrays, outputs: Arrays) -> bytes:
    """Both as one .npz; strings are kept as fixed-width bytes, so that nothing is pickled."""
    import numpy as np

    buffer = io.BytesIO()
    tensors = {f"in:{name}": value for name, value in inputs.items()}
    tensors |= {f"out:{name}": value for name, value in outputs.items()}
    np.savez(
        buffer,
        **{k: v.astype(np.bytes_) if v.dtype == object else v for k, v in tensors.items()},
    )
    return buffer.getvalue()


def read_golden(path: Path) -> tuple[Arrays, Arrays]:
    """Inputs and expected outputs of a golden request.

    Raises:
        RepositoryError: The file is missing or damaged.
    """
    import numpy as np

    inputs: Arrays = {}
    outputs: Arrays = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                side, _, name = key.partition(":")
                value = arrays[key]
                value = value.astype(object) if value.dtype.kind == "S" else value
                (inputs if side == "in" else outputs)[name] = value
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RepositoryError(
            f"the golden request cannot be read: {error}", where=path, hint="run `builder build`"
        ) from error
    return inputs, outputs
