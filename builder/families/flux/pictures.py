"""Reading and writing the pictures of `builder generate`."""

from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Picture = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

MOST_PIXELS = 64 * 2**20
"""Larger files are refused before they are decoded."""


def save_png(image: "Picture", path: Path) -> None:
    """Save an image, UINT8 [H,W,3].

    Raises:
        BuilderError: The file cannot be written.
    """
    import io

    from PIL import Image

    from builder.files import write_atomic

    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())


def read_picture(path: Path, size: tuple[int, int] | None = None) -> "Picture":
    """Read a picture of any common format as UINT8 [H,W,3], upright, what is transparent on white.

    Args:
        size: Height and width to scale it to; what sticks out is cut off evenly.

    Raises:
        DataError: It is no picture, damaged, or far too large.
    """
    import warnings

    import numpy as np
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked here
            with Image.open(path) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    pixels = f"{opened.height}x{opened.width} pixels"
                    raise DataError(f"has {pixels}", where=path, hint="scale it down")
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"is no picture that can be read: {error}", where=path, hint="use PNG or JPEG"
        ) from error
    picture = Image.new("RGBA", upright.size, "white")
    picture.alpha_composite(upright)
    if size is not None and (picture.height, picture.width) != size:
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("RGB"), np.uint8)
