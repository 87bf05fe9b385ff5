"""Out of depth: what is said and scaled, what a reference file must be, and that drawings are told from textures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import TOKENIZER, micro
from PIL import Image, ImageFilter

from calico.checkpoints.files import save_checkpoint
from calico.checkpoints.fingerprint import DEPTH, EMBEDDED, checkpoint_version, weights_version
from calico.data.groups import draw_group
from calico.depth import reference as depth
from calico.depth.dead_leaves import SIZE, dead_leaves
from calico.depth.reference import (
    NUM_FOLDS,
    OUT_OF_DEPTH,
    SCORE_CAP,
    Reference,
    description,
    fit,
    load_reference,
    save_reference,
)
from calico.drawings import VERSION
from calico.errors import CheckpointError, InputError
from calico.evaluation.depth import as_jpeg, auroc, find_photos, measure
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.model.calico import ImageFeatures
from calico.model.encoders import GroundingFeatures
from calico.training import depth_fit as training_reference
from calico.training.corrected_groups import CorrectedGroup
from calico.training.depth_fit import fit_folder
from calico.values import ImageGroup

CONFIG = micro()


@pytest.fixture(scope="module")
def embedded() -> CoSegmenter:
    return CoSegmenter.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def referenced(embedded: CoSegmenter) -> CoSegmenter:
    """The embedded checkpoint with its reference."""
    if not (EMBEDDED / DEPTH).exists():
        pytest.skip(f"no {DEPTH} beside the embedded weights yet: calico depth fit calico/weights/calico-tiny")
    assert embedded.reference is not None, f"{DEPTH} is of other weights: calico depth fit calico/weights/calico-tiny"
    return embedded


def drawings(count: int) -> list[np.ndarray]:
    return [item.image for seed in range(count // 2) for item in draw_group(seed, group_size=2)]


def coloured_noise(rng: np.random.Generator, size: int, power: float) -> np.ndarray:
    """size x size x 3 float from 0 to 1 whose amplitude falls as frequency to the -power, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    channels = []
    for _ in range(3):
        spectrum = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        plane = np.fft.irfft2(spectrum / frequency**power, (size, size))
        channels.append((plane - plane.mean()) / plane.std())
    mixed = np.stack(channels, -1) @ np.array([[1, 0, 0], [0.95, 0.25, 0], [0.9, 0.3, 0.25]]).T
    return np.clip(0.5 + 0.2 * mixed, 0, 1)


def photo_like(count: int) -> Iterator[np.ndarray]:
    """1/f noise above and below a horizon, under uneven light, slightly out of focus: 192 x 192 x 3 uint8."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        sky, ground = coloured_noise(rng, 192, 1.0), coloured_noise(rng, 192, 1.2)
        rows = np.arange(192)[:, None, None] < rng.integers(60, 130)
        light = 0.5 + coloured_noise(rng, 192, 2.0)[..., :1]
        pixels = np.clip(np.where(rows, sky * 0.7 + 0.3, ground) * light, 0, 1)
        yield np.asarray(Image.fromarray((pixels * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6)))


def test_the_embedded_checkpoint_tells_drawings_from_textures(referenced: CoSegmenter) -> None:
    known = drawings(24)
    usual = [referenced.depth_of(image) for image in known]
    compressed = [referenced.depth_of(as_jpeg(image, 60)) for image in known[:8]]
    strange = [referenced.depth_of(image) for image in photo_like(16)]
    assert auroc(usual, strange) > 0.97
    assert np.mean(np.array(strange) > 1) > 0.4
    assert np.sum(np.array([*usual, *compressed]) > 1) <= 3


def group() -> ImageGroup:
    return ImageGroup(tuple(item.image for item in draw_group(8, group_size=2)))


def beyond(image: int, features: ImageFeatures) -> Reference:
    """A reference that this one of two images is out of depth of, at distance 2, and the other is not, at -2."""
    found = description(features)
    apart = found[image] - found[1 - image]
    weight = 4 * apart / (apart @ apart)
    return Reference(weight.astype(np.float32), np.float32(-found.mean(0) @ weight))


def test_an_image_out_of_depth_is_a_problem_and_its_scores_are_scaled(embedded: CoSegmenter) -> None:
    images = group()
    plain = CoSegmenter(embedded.model, embedded.config, embedded.tokenizer)
    usual = plain.segment(images)
    reference = beyond(1, plain._encode(images.images, images.digests)[0])
    warned = CoSegmenter(embedded.model, embedded.config, embedded.tokenizer, reference=reference)
    found = warned.segment(images)
    (problem,) = [problem for problem in found.problems if problem.code == OUT_OF_DEPTH]
    assert problem.image == 1
    for remedy in ("full-size weights", "finetune", "docs/loop.md"):
        assert remedy in problem.message
    assert OUT_OF_DEPTH not in {problem.code for problem in usual.problems}
    assert {region.key for region in found.regions} == {region.key for region in usual.regions}
    for region in found.regions:
        scale = SCORE_CAP if region.image == 1 else 1.0
        assert region.score == pytest.approx(usual.by_key[region.key].score * scale, abs=1e-6)
        assert np.array_equal(region.mask, usual.by_key[region.key].mask)
    for image, scale in ((0, 1.0), (1, SCORE_CAP)):
        click = plain.segment_prompts(images.images[image], [(40, 40)], [True])
        again = warned.segment_prompts(images.images[image], [(40, 40)], [True])
        assert np.array_equal(click.mask, again.mask)
        assert again.score == pytest.approx(click.score * scale, abs=1e-6)


def features_of(*tokens: list[list[float]]) -> ImageFeatures:
    refined = torch.tensor(tokens)
    return ImageFeatures(refined, refined, GroundingFeatures(torch.zeros(len(refined), 1, 2, 2)))


def test_a_description_is_mean_and_maximum_of_each_channel() -> None:
    features = features_of([[1.0, 0.0], [3.0, -2.0]], [[5.0, 5.0], [5.0, 5.0]])
    assert description(features).tolist() == [[2.0, -1.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]]


def test_distance_is_linear_in_the_description() -> None:
    features = features_of([[2.0, 1.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    reference = Reference(np.array([1.0, 10.0, 0.5, 0.0], np.float32), np.float32(-2.0))
    assert reference.distance(features).tolist() == [13.0, -2.0]  # means 3 and 1, maximum 4
    with pytest.raises(CheckpointError, match="descriptions of 3 numbers, this model gives 4"):
        Reference(np.zeros(3, np.float32), np.float32(0)).distance(features)


def test_what_a_finetune_adds_is_known_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On descriptions made up: looks are a few directions, of which the finetune brings one more."""
    rng = np.random.default_rng(0)
    looks = np.linalg.qr(rng.normal(size=(40, 40)))[0]

    def rows(count: int, *which: int) -> np.ndarray:
        return 5 * looks[rng.choice(which, count)] + 0.4 * rng.normal(size=(count, 40))

    monkeypatch.setattr(depth, "_descriptions", lambda model, config, rows: np.array(list(rows)))
    monkeypatch.setattr(depth, "description", lambda rows: rows)
    monkeypatch.setattr(depth, "dead_leaves", lambda seed, count: rows(count, *range(4, 40)))
    known, own = rows(600, 0, 1, 2, 3), rows(60, 4)
    before, after = fit(None, None, known), fit(None, None, known, own)  # type: ignore[arg-type]
    fresh = rows(2000, 0, 1, 2, 3)
    assert 0.001 < np.mean(before.distance(fresh) > 1) < 0.03  # type: ignore[arg-type]
    assert np.median(before.distance(fresh)) == pytest.approx(0, abs=0.1)  # type: ignore[arg-type]
    assert np.mean(before.distance(rows(500, 4)) > 1) > 0.99  # type: ignore[arg-type]
    assert np.mean(after.distance(rows(500, 4)) > 1) < 0.1  # type: ignore[arg-type]
    assert np.mean(after.distance(fresh) > 1) < 0.05  # type: ignore[arg-type]
    assert np.mean(after.distance(rows(500, 5, 6)) > 1) > 0.95  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{NUM_FOLDS} or more images"):
        fit(None, None, known[: NUM_FOLDS - 1])  # type: ignore[arg-type]


def test_dead_leaves_are_the_same_for_a_seed_and_fill_their_frame() -> None:
    first, again, other = list(dead_leaves(3, 4)), list(dead_leaves(3, 2)), next(dead_leaves(4, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=False))
    assert not np.array_equal(first[0], other)
    for image in (*first, other):
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.uint8
        flat = (image[:, 1:] == image[:, :-1]).all(2).mean()
        assert flat < 0.5, "a photograph has texture nearly everywhere"


def test_a_reference_belongs_to_its_weights_and_to_the_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(CONFIG)
    save_checkpoint(tmp_path, model, CONFIG, TOKENIZER)
    assert load_reference(tmp_path) is None
    without = checkpoint_version(tmp_path)
    reference = Reference(np.linspace(-1, 1, 5, dtype=np.float32), np.float32(0.25))
    save_reference(tmp_path, reference)
    loaded = load_reference(tmp_path)
    assert loaded is not None
    assert np.array_equal(loaded.weight, reference.weight)
    assert loaded.weight.dtype == np.float32
    assert loaded.bias == 0.25
    assert checkpoint_version(tmp_path) != without == weights_version(tmp_path)

    other = tmp_path / "other"
    save_checkpoint(other, build(CONFIG), CONFIG, TOKENIZER)
    shutil.copy(tmp_path / DEPTH, other / DEPTH)
    with caplog.at_level(logging.WARNING, logger="calico.depth.reference"):
        assert load_reference(other) is None
    assert "fitted on other weights" in caplog.text
    save_checkpoint(tmp_path, model, CONFIG, TOKENIZER)  # new weights leave no old reference
    assert not (tmp_path / DEPTH).exists()
    for odd in (replace(reference, weight=np.ones((5, 1))), replace(reference, bias=np.ones(2))):
        save_reference(tmp_path, odd)
        with pytest.raises(CheckpointError, match="not a depth reference"):
            load_reference(tmp_path)
    (tmp_path / DEPTH).write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(CheckpointError, match=r"depth\.safetensors"):
        load_reference(tmp_path)


@pytest.mark.usefixtures("referenced")
def test_the_embedded_reference_is_small() -> None:
    assert (EMBEDDED / DEPTH).stat().st_size < 10_000


@pytest.mark.usefixtures("small_reference")
def test_a_folder_is_fitted_on_drawings_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path, build(CONFIG), replace(CONFIG, data_version=VERSION), TOKENIZER)
    fitted = fit_folder(tmp_path, seed=1)
    found = CoSegmenter.from_checkpoint(tmp_path, "cpu")
    assert found.reference is not None
    assert np.array_equal(found.reference.weight, fitted.weight)
    assert found.reference.bias == fitted.bias
    save_checkpoint(tmp_path, build(CONFIG), replace(CONFIG, data_version=""), TOKENIZER)
    with pytest.raises(InputError, match="expected drawings-v1"):
        fit_folder(tmp_path)


def test_a_finetune_of_many_images_shows_some_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_reference, "NUM_DRAWINGS", 10)
    shown: list[int] = []
    reference = Reference(np.zeros(2 * CONFIG.global_encoder.hidden_size, np.float32), np.float32(0))

    def fit_of(model: object, config: object, images: Iterator[np.ndarray], own: list[np.ndarray]) -> Reference:
        shown.extend((len(list(images)), len(list(own))))
        return reference

    monkeypatch.setattr(training_reference, "fit", fit_of)
    config = replace(CONFIG, data_version=VERSION)
    model = build(config)
    save_checkpoint(tmp_path, model, config, TOKENIZER)
    groups = [CorrectedGroup(str(seed), tuple(draw_group(seed, group_size=2, size=40)), None) for seed in range(11)]
    training_reference.refit(tmp_path, model, config, TOKENIZER, groups)
    assert load_reference(tmp_path) is not None
    assert shown == [10, 8]  # every third of 22


def test_measuring_names_each_folder_with_its_n(tmp_path: Path, embedded: CoSegmenter) -> None:
    (tmp_path / "pets").mkdir()
    for number, image in enumerate(photo_like(3)):
        folder = tmp_path / "pets" if number else tmp_path
        Image.fromarray(image).save(folder / f"{number}.jpg")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "pets" / "1.png")  # a mask
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0_mask.png")
    photos = find_photos(tmp_path)
    assert {name: [path.name for path in paths] for name, paths in photos.items()} == {
        ".": ["0.jpg"],
        "pets": ["1.jpg", "2.jpg"],
    }
    report = measure(embedded, photos, 2, 3)
    assert {name: row["n"] for name, row in report["photographs"].items()} == {
        ".": 1,
        "pets": 2,
    }
    for row in report["false_alarms"].values():
        assert row["n"] == 2
    assert auroc([0.0, 1.0], [1.0, 2.0]) == 0.875
    with pytest.raises(InputError, match="no photograph there"):
        find_photos(EMBEDDED)
