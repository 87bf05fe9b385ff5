"""Label Studio's Bitmask regions: a PNG as a data URL, what is not transparent is the region.

About a quarter of the brush's run lengths in JSON, and the editor reads and writes it without a loss.
"""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from calico.errors import InputError

_PREFIX = "data:image/png;base64,"
_MAX_BYTES_PER_PIXEL = 5  # an uncompressed RGBA picture and its frame


def encode(mask: np.ndarray) -> str:
    """HxW bool -> a data URL: a PNG of one bit a pixel, transparent outside, opaque white inside."""
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise InputError(
            f"bitmask: expected a bool HxW mask, got {mask.dtype} {mask.shape}; convert it with `mask > 0`"
        )
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=1, transparency=b"\x00\xff")
    return _PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(url: str, height: int, width: int) -> np.ndarray:
    """A data URL -> HxW bool. `InputError` where it is no PNG of that size; nothing larger is ever decoded.

    Set is what is not transparent; in a PNG without transparency, what is not black.
    """
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise InputError(f"bitmask: expected a data URL of a PNG, got {str(url)[:30]!r}; draw the region again")
    body = url.partition(",")[2]
    if len(body) > 4096 + 2 * _MAX_BYTES_PER_PIXEL * height * width:
        raise InputError(f"bitmask: {len(body)} characters cannot belong to an image of {height} x {width}")
    try:
        data = base64.b64decode(body, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise InputError(
                    f"bitmask: its picture is {image.height} x {image.width}, the image {height} x {width} (height x "
                    "width); was the image replaced? Draw the region again"
                )
            if image.has_transparency_data:
                return np.asarray(image.convert("RGBA").getchannel("A")) > 0
            return np.asarray(image.convert("RGB")).max(2) > 0
    except InputError:
        raise
    except (binascii.Error, ValueError) as error:
        raise InputError(f"bitmask: no base64 ({error}); draw the region again") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise InputError(f"bitmask: its PNG cannot be read ({type(error).__name__}); draw the region again") from None
