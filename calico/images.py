"""Pictures from files or bytes to upright RGB arrays.

The one place that decodes images: every caller gets the same pixels, and the same refusals, for the same file, in the
frame that browsers show (`shown_orientation`).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, ImageGroup

logger = logging.getLogger(__name__)

MAX_PIXELS = 50_000_000
_BAND_PIXELS = 1 << 18  # converted at a time
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TOO_LARGE = "over the limit of {:,} pixels; scale it down"

# Pillow hands these to an outside program (Ghostscript) or to the host's renderer: not for files of unknown origin.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})


def load_image(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    reserve: Callable[[int], None] = lambda num_pixels: None,
) -> np.ndarray:
    """HxWx3 uint8 RGB, upright (as browsers show it), of a file (path) or of a file's content (bytes).

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
        with open_picture(source) as image:
            _check_size(image, name, max_pixels)
            if image.format in _REFUSED_FORMATS:
                raise InputError(f"{name}: {image.format} files are not read; convert it to PNG or JPEG")
            reserve(image.width * image.height)
            orientation = shown_orientation(image)
            loaded = _loaded(image, source, name)
            _check_size(loaded, name, max_pixels)  # an icon's header may say less than the picture in it
            return _to_rgb(_turned(loaded, orientation))
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


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Pillow's picture with its header read. What a file says beside its pixels never spoils it: where a PNG's texts
    cannot be read, it is opened without them. Errors as Pillow's readers raise them, nearly anything."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (ValueError, OSError, SyntaxError) as error:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        plain = _without_texts(data)
        if plain is None:
            raise
        try:
            return Image.open(io.BytesIO(plain))
        except Exception:
            raise error from None


_PNG = b"\x89PNG\r\n\x1a\n"


def _without_texts(data: bytes) -> bytes | None:
    """A PNG without its text chunks and colour profile; None where it is none, or has none of these."""
    if not data.startswith(_PNG):
        return None
    kept, at, is_less = [_PNG], len(_PNG), False
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            is_less = True
        else:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) if is_less else None


def _loaded(image: Image.Image, source: str | Path | bytes, name: str) -> Image.Image:
    """The picture with its pixels; where what is wrong spoils none of them, without it. Errors as Pillow's readers."""
    try:
        image.load()
        return image
    except (OSError, ValueError, SyntaxError):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if image.format in ("JPEG", "MPO") and (whole := _ended(data)) is not None:
            logger.warning("%s: ends without its end marker; nothing else is missing, so it is read", name)
            return whole
        plain = _without_texts(data)
        if plain is None:
            raise
        bare = Image.open(io.BytesIO(plain))
        bare.load()
        return bare


def _ended(data: bytes) -> Image.Image | None:
    """A JPEG that lacks only its end marker, loaded; None where more is missing.

    Bits that stand for nothing, put before the end, change a picture that is not whole, and no other.
    """
    pictures = []
    for filling in (b"", b"\x55\xaa\x2b\x6d" * 64):
        picture = Image.open(io.BytesIO(data + filling + b"\xff\xd9"))
        try:
            picture.load()
        except OSError:
            return None
        pictures.append(picture)
    return pictures[0] if pictures[0].tobytes() == pictures[1].tobytes() else None


def shown_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, by which a browser turns an opened picture before it shows it.

    JPEG, PNG and AVIF are turned by the EXIF block itself, not by what XMP or a text repeats of it; WebP and all other
    formats are shown as they are stored (docs/coco.md has the table). TIFF, which browsers do not show, as EXIF says.
    """
    try:
        if image.format == "TIFF":
            value = image.getexif().get(_ORIENTATION, 1)
        elif image.format in ("JPEG", "MPO", "PNG", "AVIF") and image.info.get("exif"):
            exif = Image.Exif()
            exif.load(image.info["exif"])
            value = exif.get(_ORIENTATION, 1)
        else:
            return 1
    except Exception:  # damaged metadata, which never spoils a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if image.format == "TIFF":
        return ImageOps.exif_transpose(image)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _check_source(source: str | Path | bytes, name: str) -> None:
    """The failures that a path shows before the file is opened, each with its own remedy."""
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name}: there is nothing in it; send the file's content")
        return
    if "\0" in name:
        raise InputError(f"{name!r}: not a path; give the path of an image file")
    path = Path(source)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name[:160]}: cannot be opened ({reason}); give the path of an image file") from None
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
