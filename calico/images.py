"""Pictures from files or bytes to upright RGB arrays.

The one place that decodes images: every caller gets the same pixels, and the same refusals, for the same file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, ImageGroup

MAX_PIXELS = 50_000_000
_TOO_LARGE = "over the limit of {:,} pixels; scale it down"

# Pillow hands these to an outside program (Ghostscript) or to the host's renderer: not for files of unknown origin.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})


def load_image(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxWx3 uint8 RGB, upright (EXIF orientation applied), of a file (path) or of a file's content (bytes).

    Any picture Pillow opens; the first frame of an animation. What is transparent is laid on white. 16-bit grey is
    divided by 257 (0..65535 -> 0..255), whatever its content. 32-bit integer and float pixels, whose range no header
    states, keep 0..255, and are scaled from 0..1 (float), 0..65535 (integer) or else from their own least and greatest.

    Raises InputError, naming the file and the remedy, for what is missing, empty, truncated or no picture, and, from
    the header alone, before any pixel is decoded, for more than `max_pixels` pixels.
    """
    name = f"image of {len(source):,} bytes" if isinstance(source, bytes) else str(source)
    _check_source(source, name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_size(image, name, max_pixels)
            if image.format in _REFUSED_FORMATS:
                raise InputError(f"{name}: {image.format} files are not read; convert it to PNG or JPEG")
            image.load()
            _check_size(image, name, max_pixels)  # an icon's header may say less than the picture in it
            return _to_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {_TOO_LARGE.format(max_pixels)} ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that can be read; convert it to PNG or JPEG") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: the image cannot be decoded ({reason}); export or download it again") from error


def load_group(sources: Sequence[str | Path | bytes], *, max_pixels: int = MAX_PIXELS) -> ImageGroup:
    """Two to eight pictures as one group, named by their paths. Errors as in `load_image`, a wrong number first."""
    if not MIN_GROUP_SIZE <= len(sources) <= MAX_GROUP_SIZE:  # before thousands of files are decoded for nothing
        remedy = "add images" if len(sources) < MIN_GROUP_SIZE else "split it into smaller groups"
        raise InputError(f"a group has {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {len(sources)}; {remedy}")
    names = (f"image {i + 1}" if isinstance(source, bytes) else str(source) for i, source in enumerate(sources))
    return ImageGroup(tuple(load_image(source, max_pixels=max_pixels) for source in sources), tuple(names))


def _check_source(source: str | Path | bytes, name: str) -> None:
    """The failures that a path shows before the file is opened, each with its own remedy."""
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name}: there is nothing in it; send the file's content")
        return
    if "\0" in name:
        raise InputError(f"{name!r}: not a path; give the path of an image file")
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{name}: is a folder; give the image files in it")
    if not path.exists():
        raise InputError(f"{name}: no such file; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{name}: the file is empty; export or download it again")


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise InputError(f"{name}: {image.width} x {image.height} is {_TOO_LARGE.format(max_pixels)}")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """HxWx3 uint8 of a decoded picture of any mode."""
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
        grey = _grey_to_uint8(np.asarray(image), sixteen_bit=image.mode.startswith("I;16"))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper
    return np.array(image.convert("RGB"))


def _grey_to_uint8(values: np.ndarray, *, sixteen_bit: bool) -> np.ndarray:
    """HxW grey of more than 8 bits -> HxW uint8, by the rules of `load_image`; values that are no number become 0."""
    grey = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = grey.min(), grey.max()
    if sixteen_bit:
        grey /= 257.0
    elif low >= 0 and values.dtype.kind == "f" and high <= 1:
        grey *= 255.0
    elif low >= 0 and high <= 255:
        pass
    elif low >= 0 and values.dtype.kind != "f" and high <= 65535:
        grey /= 257.0
    else:
        grey = (grey - low) * (255.0 / (high - low)) if high > low else np.zeros_like(grey)
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
