"""A checkpoint's own memory: names and masks of what it was fitted on, where the language model doubts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_mixture import stool
from test_part_memory import FAST, grey
from test_trunk import TOKENIZER, micro_small, micro_tiny
from torch import Tensor

from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version
from calico.correspondence import co_segmentation
from calico.data.groups import draw_group
from calico.data.unseen import draw as draw_unseen
from calico.drawings import draw
from calico.errors import InputError
from calico.inference.belief import worth_showing
from calico.inference.encodings import NUM_MAPS
from calico.inference.segmenter import CoSegmenter
from calico.masks import encode_rle, iou
from calico.mixedparts.records import ObjectRecord, PartMask
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter, write_manifest
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.part_memory.base import BaseMemory, chances_of
from calico.part_memory.evidence import proposed
from calico.part_memory.fitting import fit_memory
from calico.part_memory.lessons import Lesson
from calico.part_memory.memory import Belief, SeenRegion, Sight, load_memory, reader_of, save_memory
from calico.part_memory.presence import MIN_IMAGES, Presence
from calico.part_memory.pyramid import PyramidFeatures, PyramidReader
from calico.training import affinity
from calico.training.base_memory import (
    DRAWING_SEED,
    DRAWING_SIDES,
    BaseMemorySettings,
    Said,
    calibrated,
    fit_base_memory,
    fit_likeness,
    measured,
    trust_of,
)
from calico.values import AnnotatedImage, ImageGroup, NamedMask, SubTask
from scripts import base_memory as script

CONFIG = micro_small()
QUICK = BaseMemorySettings(hidden=24, steps=150, rows=200, rows_per_step=512, num_drawings=2, noise=0.0, dropout=0.0)


def items() -> list[AnnotatedImage]:
    """Stools, and gongs, which are stools in other colours."""
    gong = replace(stool(), image=255 - stool().image, object_name="gong", part_names=("rim", "post"))
    return [stool(), gong]


@pytest.fixture(scope="module")
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(CONFIG).eval()


@pytest.fixture(scope="module")
def segmenter(model: CalicoModel) -> CoSegmenter:
    return CoSegmenter(model, CONFIG, TOKENIZER)


@pytest.fixture(scope="module")
def memory(model: CalicoModel, segmenter: CoSegmenter) -> BaseMemory:
    return calibrated(fit_base_memory(model, CONFIG, items(), QUICK), segmenter, [items()])


def test_it_names_an_object_among_all_and_cuts_out_its_parts(model: CalicoModel, memory: BaseMemory) -> None:
    reader = PyramidReader(model, CONFIG, memory.card.size, has_context=True)
    for item in items():
        sight = memory.sight(reader(item.image), (48, 48))
        assert sight is not None
        assert sight.object_name == item.object_name
        assert iou(sight.object.mask, item.part_map > 0) > 0.6
        assert set(sight.parts) <= set(item.part_names)
        assert 0 < sight.object.score <= 1
    blank = np.full((48, 48, 3), 250, np.uint8)
    found = memory.sight(reader(blank), (48, 48))
    assert found is None or found.object.mask.mean() < 0.01, "no more than a speck in a corner"


def test_estimates_are_of_iou_where_the_name_is_right(model: CalicoModel, memory: BaseMemory) -> None:
    figures = measured(memory, model, CONFIG, items())
    assert figures["object_accuracy"] == 1.0
    assert figures["n"] == 2
    assert figures["certainty"] > 0.5
    reader = PyramidReader(model, CONFIG, memory.card.size, has_context=True)
    estimates, overlaps = [], []
    for item in items():
        sight = memory.sight_as(item.object_name, reader(item.image), (48, 48))
        assert sight is not None
        masks = {mask.part_name: mask.mask for mask in item.masks(0)}
        estimates += [region.score for region in sight.regions.values()]
        overlaps += [iou(region.mask, masks[part]) for part, region in sight.regions.items()]
    assert np.mean(estimates) == pytest.approx(np.mean(overlaps), abs=0.02)


def test_trust_is_measured_where_the_language_model_is_believed() -> None:
    mistaken = [Said(0.9, [(0.9, 0.0)])] * 20  # which the memory knows better
    halves = [Said(0.6, [(0.6, 0.3)])] * 20
    assert trust_of([*mistaken, *halves], [0.5] * 20 + [0.0] * 20) == 0.5  # over all images it would be 0.2
    assert trust_of([*mistaken, *halves], [0.0] * 40) == 0.2
    assert trust_of([Said(0.6, [(0.6, 0.3)])] * 3, [0.0] * 3) == 0.5  # too few to choose among: what was said in all
    assert trust_of([Said(0.0, [])] * 40, [0.0] * 40) == 0.0


def test_the_language_model_is_believed_on_drawings_and_as_far_as_it_was_right_elsewhere(
    model: CalicoModel, memory: BaseMemory
) -> None:
    assert memory.card.belief.language_trust == 0.0  # one of random weights names nothing
    reader = PyramidReader(model, CONFIG, memory.card.size, has_context=True)
    others = [item.image for item in items()]
    memory = BaseMemory(memory.heads, memory.card, fit_likeness(model, CONFIG, others))
    drawn = draw(DRAWING_SEED, size_hw=(DRAWING_SIDES[0], DRAWING_SIDES[0])).image  # one that it was fitted on
    assert max(memory.trust(reader(image)) for image in others) < 0.5 < memory.trust(reader(drawn))
    assert memory.trusting().trust(reader(stool().image)) == 1.0
    assert BaseMemory(memory.heads, memory.card).trust(reader(stool().image)) == 1.0  # a memory of before


# -- a group ----------------------------------------------------------------------------------------------------------

BELIEF = Belief(sharpness=1.0, unknown=0.1, alike=0.2)


def test_what_another_image_shows_for_sure_decides_a_doubtful_one() -> None:
    """And says little where both are sure."""
    doubtful, sure, other = [0.10, 0.11, 0.01], [0.5, 0.01, 0.01], [0.01, 0.01, 0.5]
    alone = chances_of(torch.tensor([doubtful]), BELIEF)[0, 1:]
    assert int(alone.argmax()) == 1
    beside = chances_of(torch.tensor([doubtful, sure]), BELIEF)
    assert beside[:, 1:].argmax(1).tolist() == [0, 0]
    assert float(beside[0, 1:].max()) > float(alone.max())
    assert chances_of(torch.tensor([sure, other]), BELIEF)[:, 1:].argmax(1).tolist() == [0, 2]
    assert beside.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_little_mass_is_something_unknown() -> None:
    chances = chances_of(torch.tensor([[0.02, 0.001]]), BELIEF)[0]
    assert int(chances.argmax()) == 0
    assert float(chances_of(torch.tensor([[0.02, 0.001]]), Belief())[0].argmax()) == 1


def test_only_listed_names_are_seen(model: CalicoModel, memory: BaseMemory) -> None:
    looks = [PyramidReader(model, CONFIG, memory.card.size, has_context=True)(item.image) for item in items()]
    sizes = [(48, 48)] * 2
    listed = memory.sights(looks, sizes, ["Gong", "rim"])
    assert {sight.object_name for sight in listed if sight is not None} == {"gong"}
    assert all(set(sight.parts) <= {"rim"} for sight in listed if sight is not None)
    assert memory.sights(looks, sizes, ["bell"]) == [None, None]


def test_beside_a_teams_memory_each_image_is_read_once_at_each_size(
    model: CalicoModel, memory: BaseMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = [Lesson(item, number) for number, item in enumerate(MIN_IMAGES // 2 * items())]
    team = fit_memory(model, CONFIG, lessons, replace(FAST, size=128), negatives=[grey(k) for k in range(3)])
    group = ImageGroup(tuple(item.image for item in items()))
    whole = reader_of(team, model, CONFIG)(group.images[0]).whole
    read: list[int] = []
    asked: list[Tensor] = []

    def reads(reader: PyramidReader, image: np.ndarray, scale: float) -> PyramidFeatures:
        read.append(round(reader._size * scale))
        return own_read(reader, image, scale)

    def chances(presence: Presence, whole: Tensor) -> Tensor:
        asked.append(whole)
        return own_chances(presence, whole)

    own_read, own_chances = PyramidReader._read, Presence.chances
    monkeypatch.setattr(PyramidReader, "_read", reads)
    monkeypatch.setattr(Presence, "chances", chances)
    CoSegmenter(model, CONFIG, TOKENIZER, memory=team, base_memory=memory).segment(group)
    assert read == [128, 128]  # the encoders have read them at 64
    assert whole is not None
    assert torch.allclose(asked[0], whole, atol=1e-3)  # the encoders read in float32


def test_the_maps_of_the_encoders_are_those_that_the_memory_would_read(model: CalicoModel, memory: BaseMemory) -> None:
    segmenter = CoSegmenter(model, CONFIG, TOKENIZER)
    image = stool().image[:31]
    segmenter._encode([image], ["stool"])
    maps = segmenter._encode.maps_of("stool")
    assert maps is not None
    reader = reader_of(memory, model, CONFIG)
    found, expected = reader.of_maps(maps, (image.shape[0], image.shape[1])), reader(image)
    assert found.extent == expected.extent
    for ours, theirs in zip(found.maps, expected.maps, strict=True):
        assert torch.allclose(ours, theirs, atol=0.02)  # one of them may be in bfloat16
    others = [grey(seed) for seed in range(NUM_MAPS)]
    segmenter._encode(others, [f"{seed}" for seed in range(NUM_MAPS)])
    assert segmenter._encode.maps_of("stool") is None
    assert segmenter._encode.maps_of("0") is not None
    segmenter.forget_encodings()
    assert segmenter._encode.maps_of("0") is None


def test_it_lies_beside_the_weights_and_is_part_of_the_version(
    model: CalicoModel, memory: BaseMemory, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, model, CONFIG, TOKENIZER)
    before = checkpoint_version(tmp_path)
    save_memory(tmp_path, memory)
    known = checkpoint_version(tmp_path)
    assert known != before
    save_memory(tmp_path, memory.trusting())
    assert checkpoint_version(tmp_path) != known  # the card counts too
    save_memory(tmp_path, memory)
    assert checkpoint_version(tmp_path) == known
    again = load_memory(tmp_path)
    assert isinstance(again, BaseMemory)
    assert again.card == memory.card
    segmenter = CoSegmenter.from_checkpoint(tmp_path, device="cpu")
    assert segmenter.memory is None  # that is a team's
    assert segmenter.base_memory is not None
    found = segmenter.segment(ImageGroup(tuple(item.image for item in items())))
    assert {(region.image, region.object_name) for region in found.regions} == {(0, "stool"), (1, "gong")}
    assert not any(region.is_taught for region in found.regions)


def test_it_speaks_where_it_is_surer_and_only_there() -> None:
    mask = np.ones((8, 8), bool)
    said = co_segmentation(
        [(8, 8)] * 4,
        [
            NamedMask(0, "lamp", None, mask, 0.3), NamedMask(0, "lamp", "shade", mask, 0.9),
            NamedMask(1, "lamp", None, mask, 0.8), NamedMask(1, "lamp", "shade", mask, 0.1),
            NamedMask(3, "lamp", None, mask, 0.8),
        ],
    )  # fmt: skip
    sight = Sight("stool", SeenRegion(mask, 0.6), {"leg": SeenRegion(mask, 0.5)}, frozenset({"seat"}), 0.7)
    trusts = [1.0, 1.0, 1.0, 0.5]
    found = proposed(said, [sight] * 4, trusts)
    assert [(region.image, region.name, region.score, region.certainty) for region in found.regions] == [
        (0, "stool", 0.6, 0.7), (1, "lamp", 0.8, None), (2, "stool", 0.6, 0.7), (3, "stool", 0.6, 0.7),
        (0, "leg", 0.5, 0.7), (2, "leg", 0.5, 0.7), (3, "leg", 0.5, 0.7), (1, "shade", 0.1, None),
    ]  # fmt: skip
    unseen = proposed(said, [None] * 4, trusts)
    assert unseen.by_key.keys() == said.by_key.keys()
    assert [region.score for region in unseen.regions if region.image == 3] == [0.4]  # believed half, shown or not
    assert not unseen.problems


def test_what_a_team_taught_the_language_model_is_left_to_it() -> None:
    mask = np.ones((8, 8), bool)
    said = co_segmentation(
        [(8, 8)] * 2, [NamedMask(0, "lamp", None, mask, 0.3), NamedMask(1, "stool", None, mask, 0.3)]
    )
    sight = Sight("chair", SeenRegion(mask, 0.6), {}, frozenset())
    found = proposed(said, [sight] * 2, [0.1, 0.1], taught=["lamp"])
    assert [(region.name, region.score) for region in found.regions] == [("lamp", 0.3), ("chair", 0.6)]


def test_a_coarse_mask_of_a_name_that_is_right_is_shown_and_a_good_one_of_a_doubtful_name_is_not() -> None:
    mask = np.ones((8, 8), bool)
    found = co_segmentation(
        [(8, 8)] * 2,
        [NamedMask(0, "stool", None, mask, 0.3, False, 0.7), NamedMask(1, "gong", None, mask, 0.42, False, 0.45)],
    )
    assert [region.name for region in worth_showing(found).regions] == ["stool"]


def index_of(folder: Path) -> Path:
    """Two objects to learn from, and a pair of stools that are not learnt from."""
    objects = ObjectWriter(folder / "index", ["made"])
    samples = SampleWriter(folder / "index", ["made"])
    with objects, samples:
        for number, (item, split) in enumerate([*((one, "train") for one in items()), *[(stool(), "test")] * 2]):
            Image.fromarray(item.image).save(folder / f"{number}.png")
            masks = {mask.part_name: encode_rle(mask.mask) for mask in item.masks(0)}
            parts = tuple(PartMask(part, masks[part]) for part in item.part_names)
            name = item.object_name, masks[None], parts, split
            objects.add(ObjectRecord("made", str(number), f"{number}.png", (48, 48), *name), 0)
        for split, members in (("train", [[0, 1]]), ("test", [[2, 3]])):
            samples.add(Bucket(split, "made", SubTask.COMMON_PARTS), np.array(members), np.zeros(1, bool))
    about = {"sources": ["made"], "classes": list(objects.classes), "parts": list(objects.parts)}
    write_manifest(folder / "index", about | {"ranges": samples.ranges, "images": {"made": str(folder)}})
    return folder / "index"


def test_estimates_are_made_anew_for_the_head_that_is_there(
    model: CalicoModel, memory: BaseMemory, tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    checkpoint, data = tmp_path / "checkpoint", index_of(tmp_path)
    save_checkpoint(checkpoint, model, CONFIG, TOKENIZER)
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--only", "estimates"]
    assert script.main(command) == 2  # nothing is there
    save_memory(checkpoint, BaseMemory(memory.heads, memory.card))
    assert script.main(command) == 0
    found = load_memory(checkpoint)
    assert isinstance(found, BaseMemory)
    assert found.likeness is not None
    assert torch.equal(found.heads[0].first.weight, memory.heads[0].first.weight.half().float())
    version = checkpoint_version(checkpoint)
    assert script.main(command) == 0
    assert checkpoint_version(checkpoint) == version  # the same once more


def test_what_belongs_to_clicks_is_learnt_anew_beside_what_is_there(
    model: CalicoModel, memory: BaseMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    checkpoint, data = tmp_path / "checkpoint", index_of(tmp_path)
    save_checkpoint(checkpoint, model, CONFIG, TOKENIZER)
    save_memory(checkpoint, memory)
    version = checkpoint_version(checkpoint)
    quick = affinity.AffinitySettings(looks=2, clicks=2, cells=16, steps=3, hidden=8)
    monkeypatch.setattr(affinity, "AffinitySettings", lambda seed: replace(quick, seed=seed))
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--only", "clicks"]
    assert script.main(command) == 0
    found = load_memory(checkpoint)
    assert isinstance(found, BaseMemory)
    assert found.affinity is not None
    assert torch.equal(found.heads[0].first.weight, memory.heads[0].first.weight.half().float())
    assert found.card == memory.card
    assert checkpoint_version(checkpoint) != version
    assert script.main([*command[:-1], "estimates"]) == 0
    again = load_memory(checkpoint)
    assert isinstance(again, BaseMemory)
    assert again.affinity is not None
    assert all(torch.equal(own, again.affinity.state_dict()[name]) for name, own in found.affinity.state_dict().items())


def test_the_embedded_one_believes_the_language_model_on_drawings() -> None:
    """Which it was not fitted on."""
    memory = load_memory(EMBEDDED)
    if not isinstance(memory, BaseMemory):
        pytest.skip(f"{EMBEDDED} has no memory")
    model, config, _ = load_checkpoint(EMBEDDED)
    reader = PyramidReader(model, config, memory.card.size, has_context=True)
    drawn = [item.image for item in draw_group(1, group_size=4)] + [draw_unseen(1, domain="icons").image]
    assert min(memory.trust(reader(image)) for image in drawn) > 0.95
    assert 0 < memory.card.belief.language_trust < 0.6


def test_it_wants_names_and_a_trunk(model: CalicoModel) -> None:
    with pytest.raises(InputError, match="nothing to learn"):
        fit_base_memory(model, CONFIG, [], QUICK)
    with pytest.raises(InputError, match="trunk"):
        fit_base_memory(model, micro_tiny(), iter(()), QUICK)  # before anything is read
