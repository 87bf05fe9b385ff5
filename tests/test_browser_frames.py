"""Which frame a browser shows an image in, format by format: what `shown_orientation` says, measured in Chromium."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium
from conftest import chromium_executables
from PIL import Image
from test_reported_files import XMP, picture

from calico.images import load_image

pytestmark = pytest.mark.browser

MEASURE = """
const done = arguments[arguments.length - 1];
const image = new Image();
image.onload = () => {
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  canvas.getContext('2d').drawImage(image, 0, 0);
  done(canvas.toDataURL('image/png'));
};
image.onerror = () => done('error');
image.src = arguments[0];
"""
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "AVIF": "image/avif", "WEBP": "image/webp"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("frames")
    (folder / "blank.html").write_text("<!doctype html><title>frames</title>")
    with Chromium(*chromium_executables(), folder) as chromium:
        chromium.open((folder / "blank.html").as_uri())
        yield chromium


def shown(browser: Chromium, data: bytes, mime: str) -> np.ndarray:
    url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    answer = browser._do("POST", "/execute/async", script=MEASURE, args=[url])
    assert answer != "error", mime
    return np.array(Image.open(io.BytesIO(base64.b64decode(answer.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", TYPES)
def test_images_are_loaded_as_the_browser_shows_them(browser: Chromium, file_format: str, orientation: int) -> None:
    data = picture(file_format, exif=orientation)
    seen, loaded = shown(browser, data, TYPES[file_format]), load_image(data)
    assert seen.shape == loaded.shape
    assert np.abs(seen.astype(int) - loaded).mean() < 12


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_xmp_turns_nothing(browser: Chromium, file_format: str) -> None:
    data = picture(file_format, xmp=XMP.encode())
    assert shown(browser, data, TYPES[file_format]).shape == load_image(data).shape == (48, 64, 3)
