"""Pictures of every kind come out upright, RGB and right; everything else is one line that says what to do."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.errors import InputError
from calico.images import load_group, load_image

RED, WHITE = [255, 0, 0], [255, 255, 255]


def as_bytes(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_rgb_pixels_are_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert np.array_equal(loaded, pixels)


# Where the stored upper left corner lands when the picture is shown, as (row, column) of a 2 x 3 (H x W) file.
CORNER = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[0, 0] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(as_bytes(Image.fromarray(stored), exif=exif))
    assert loaded.shape == ((2, 3, 3) if orientation < 5 else (3, 2, 3))
    assert loaded[CORNER[orientation]].tolist() == RED
    assert np.count_nonzero(loaded) == 1


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    return as_bytes(image, transparency=1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (as_bytes(Image.fromarray(np.array([[0, 200]], np.uint8))), [[0] * 3, [200] * 3]),
        (as_bytes(Image.fromarray(np.array([[False, True]]))), [[0] * 3, WHITE]),
        (as_bytes(Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8))), [RED, WHITE]),
        (as_bytes(Image.fromarray(np.array([[[0, 0, 0, 51], [0, 0, 0, 255]]], np.uint8))), [[204] * 3, [0] * 3]),
        (palette_with_transparency(), [RED, WHITE]),
        (as_bytes(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), [RED, RED]),
        (as_bytes(Image.fromarray(np.array([[0, 65535]], np.uint16))), [[0] * 3, WHITE]),
        (as_bytes(Image.fromarray(np.array([[257, 25700]], np.uint16))), [[1] * 3, [100] * 3]),
        (as_bytes(Image.fromarray(np.array([[3, 250]], np.int32)), "TIFF"), [[3] * 3, [250] * 3]),
        (as_bytes(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF"), [[0] * 3, WHITE]),
        (as_bytes(Image.fromarray(np.array([[-100, 300000]], np.int32)), "TIFF"), [[0] * 3, WHITE]),
        (as_bytes(Image.fromarray(np.array([[0.0, 0.5]], np.float32)), "TIFF"), [[0] * 3, [128] * 3]),
        (as_bytes(Image.fromarray(np.array([[-1.0, 1000.0]], np.float32)), "TIFF"), [[0] * 3, WHITE]),
        (as_bytes(Image.fromarray(np.array([[np.nan, 7.0]], np.float32)), "TIFF"), [[0] * 3, [7] * 3]),
    ],
    ids=[
        "grey",
        "1-bit",
        "rgba",
        "half transparent",
        "palette",
        "cmyk",
        "16-bit ends",
        "16-bit",
        "int",
        "int 16 bits",
        "int range",
        "float 0..1",
        "float range",
        "float nan",
    ],
)
def test_every_mode_becomes_rgb(content: bytes, expected: list[list[int]]) -> None:
    loaded = load_image(content)
    assert loaded.shape == (1, 2, 3)
    assert loaded.dtype == np.uint8
    assert loaded[0].tolist() == expected


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert (load_image(as_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED).all()


def test_one_pixel_and_twenty_megapixels() -> None:
    assert load_image(as_bytes(Image.new("RGB", (1, 1), "red"))).tolist() == [[RED]]
    large = Image.new("L", (5000, 4000), 9)
    assert load_image(as_bytes(large, "JPEG")).shape == (4000, 5000, 3)


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])  # below, between and above Pillow's own two limits
def test_bombs_are_refused_by_their_header(side: int) -> None:
    with pytest.raises(InputError, match="over the limit of 50,000,000 pixels"):
        load_image(png_header(side, side))


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_that_holds_more_than_its_header_says_is_refused() -> None:
    content = bytearray(as_bytes(Image.new("RGB", (20, 20)), "ICO", sizes=[(20, 20)]))
    content[6:8] = 16, 16
    with pytest.raises(InputError, match="20 x 20 is over the limit of 256 pixels"):
        load_image(bytes(content), max_pixels=256)


def test_the_limit_is_a_parameter() -> None:
    content = as_bytes(Image.new("RGB", (10, 10)))
    assert load_image(content, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(InputError, match="limit of 99 pixels"):
        load_image(content, max_pixels=99)


def test_bad_files_name_themselves_and_the_remedy(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "cut.png").write_bytes(as_bytes(Image.fromarray(noise))[:3000])
    (tmp_path / "cut.jpg").write_bytes(as_bytes(Image.fromarray(noise), "JPEG")[:900])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "vector.eps").write_bytes(as_bytes(Image.new("RGB", (4, 4)), "EPS"))
    expected = {
        "cut.png": "cannot be decoded .*again",
        "cut.jpg": "cannot be decoded .*again",
        "empty.png": "is empty; .*again",
        "text.jpg": "not an image .*convert",
        "vector.eps": "EPS files are not read; convert",
        "missing.png": "no such file; check",
        ".": "is a folder; give",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="nothing in it"):
        load_image(b"")
    with pytest.raises(InputError, match="not a path"):
        load_image("a\0b")


def test_groups(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for i, path in enumerate(paths):
        Image.new("RGB", (3 + i, 4)).save(path)
    group = load_group(paths[:2])
    assert group.sizes_hw == ((4, 3), (4, 4))
    assert group.names == (str(paths[0]), str(paths[1]))
    for number in (0, 1, 9):
        with pytest.raises(InputError, match=f"2 to 8 images, got {number}"):
            load_group(paths[:number])


@pytest.mark.parametrize(("mode", "fill"), [("I;16", 7), ("I", 70_000), ("F", 0.5)])
def test_decoding_takes_little_more_than_the_pixels(mode: str, fill: float) -> None:
    """Beside Pillow's own picture (not counted here) and the 9 MB that come out, less than that once more."""
    content = as_bytes(Image.new(mode, (2000, 1500), fill), "TIFF", compression="tiff_adobe_deflate")
    tracemalloc.start()
    try:
        pixels = load_image(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pixels.shape == (1500, 2000, 3)
    assert peak < 2 * 9e6


def test_bands_are_seamless() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.integers(0, 65536, (300, 2000), dtype=np.uint16),
        rng.integers(-1000, 70000, (300, 2000), dtype=np.int32),
        (rng.random((300, 2000)) * 7 - 2).astype(np.float32),
    ):
        loaded = load_image(as_bytes(Image.fromarray(values), "TIFF"))
        low, high = (0.0, 65535.0) if values.dtype == np.uint16 else (float(values.min()), float(values.max()))
        expected = (values.astype(np.float64) - low) * (255 / (high - low))
        assert np.abs(loaded[..., 0] - expected).max() <= 0.5 + 1e-6
    rgba = rng.integers(0, 256, (300, 2000, 4), dtype=np.uint8)
    whole = Image.new("RGBA", (2000, 300), "white")
    whole.alpha_composite(Image.fromarray(rgba))
    assert np.array_equal(load_image(as_bytes(Image.fromarray(rgba))), np.asarray(whole.convert("RGB")))
