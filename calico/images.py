"""Pictures from files or bytes to upright RGB arrays.

The one place that decodes images: every caller gets the same pixels, and the same refusals, for the same file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, ImageGroup

MAX_PIXELS = 50_000_000
_BAND_PIXELS = 1 << 18  # converted at a time
_TOO_LARGE = "over the limit of {:,} pixels; scale it down"

# Pillow hands these to an outside program (Ghostscript) or to the host's renderer: not for files of unknown origin.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})


def load_image(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    reserve: Callable[[int], None] = lambda num_pixels: None,
) -> np.ndarray:
    """HxWx3 uint8 RGB, upright (EXIF orientation applied), of a file (path) or of a file's content (bytes).

    Any picture Pillow opens; the first frame of an animation. What is transparent is laid on white. 16-bit grey is
    divided by 257 (0..65535 -> 0..255), whatever its content. 32-bit integer and float pixels, whose range no header
    states, keep 0..255, and are scaled from 0..1 (float), 0..65535 (integer) or else from their own least and greatest.

    reserve: told the number of pixels before memory is taken for them; it may wait.

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
            reserve(image.width * image.height)
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
    """HxWx3 uint8 of a decoded picture of any mode, band by band: no second picture of its size is made on the way."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    bands = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    pixels = np.empty((height, width, 3), np.uint8)
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
        is_16_bit = image.mode.startswith("I;16")
        scale, offset = (1 / 257, 0.0) if is_16_bit else _scale_of(image, bands)
        for band in bands:
            grey = _numbers(image, band)
            grey -= offset
            grey *= scale
            pixels[band[1] : band[3]] = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)[:, :, None]
        return pixels
    is_transparent = image.has_transparency_data
    for band in bands:
        part = image.crop(band)
        if is_transparent:
            paper = Image.new("RGBA", part.size, "white")
            paper.alpha_composite(part.convert("RGBA"))
            part = paper
        pixels[band[1] : band[3]] = np.asarray(part.convert("RGB"))
    return pixels


def _numbers(image: Image.Image, band: tuple[int, int, int, int]) -> np.ndarray:
    """Rows of a grey picture of more than 8 bits as float64; what is no number is 0."""
    return np.nan_to_num(np.asarray(image.crop(band)).astype(np.float64), posinf=0.0, neginf=0.0)


def _scale_of(image: Image.Image, bands: Sequence[tuple[int, int, int, int]]) -> tuple[float, float]:
    """(factor, what is taken off before it) from a grey picture's numbers to 0..255, by the rules of `load_image`."""
    ends = [(float(grey.min()), float(grey.max())) for grey in (_numbers(image, band) for band in bands)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if low >= 0 and image.mode == "F" and high <= 1:
        return 255.0, 0.0
    if low >= 0 and high <= 255:
        return 1.0, 0.0
    if low >= 0 and image.mode != "F" and high <= 65535:
        return 1 / 257, 0.0
    return (255.0 / (high - low), low) if high > low else (0.0, low)
