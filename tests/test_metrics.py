"""Hand-made groups of known value. The scene: two 20 x 20 images, a chair with seat and leg, a stool with seat."""

from __future__ import annotations

import contextlib
import io
import json
import random
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.language.answers import parse_answer, render_answer
from calico.masks import encode_rle
from calico.metrics import paper
from calico.metrics.bootstrap import Bootstrap
from calico.metrics.calibration import calibration_error, calibration_table, spearman, spearman_within
from calico.metrics.figures import GroupFigures
from calico.metrics.strict import (
    Answered,
    ScoredMask,
    compare,
    keyed,
    name_counts,
    occurrence_counts,
    strict_miou,
)
from calico.metrics.summary import Evaluation
from calico.metrics.text_similarity import (
    NO_ENCODER,
    MiniLMEncoder,
    TrigramEncoder,
    cosines,
    sentence_encoder,
    word_iou,
)
from calico.values import CoSegmentation, NamedMask, PartRegion, RegionKey, SubTask

SIZES = ((20, 20), (20, 20))
CHAIR, STOOL = RegionKey(0, "object", "chair"), RegionKey(1, "object", "stool")
SEAT0, SEAT1, LEG = RegionKey(0, "part", "seat"), RegionKey(1, "part", "seat"), RegionKey(0, "part", "leg")


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((20, 20), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


MASKS = [
    NamedMask(0, "chair", None, box(0, 0, 10, 10), 0.9),
    NamedMask(0, "chair", "seat", box(0, 0, 10, 4), 0.8),
    NamedMask(0, "chair", "leg", box(0, 4, 4, 8), 0.7),
    NamedMask(1, "stool", None, box(4, 4, 16, 16), 0.6),
    NamedMask(1, "stool", "seat", box(4, 4, 16, 8), 0.5),
]
TRUTH = co_segmentation(SIZES, MASKS)


def right_answers(truth: CoSegmentation = TRUTH) -> dict[SubTask, Answered]:
    """What a perfect model says, through the real grammar and parser."""
    answers = {}
    for task in SubTask:
        text, segs = render_answer(truth, task)
        regions = [truth.by_key[key] for key in segs]
        parsed = parse_answer(text, task, len(truth.sizes_hw))
        answers[task] = Answered.from_parsed(parsed, [r.mask for r in regions], [r.score for r in regions])
    return answers


def regions_of(masks: Sequence[NamedMask]) -> tuple[PartRegion, ...]:
    return co_segmentation(SIZES, masks).regions


def answered(masks: Sequence[NamedMask], task: SubTask = SubTask.COMMON_PARTS) -> dict[SubTask, Answered]:
    return {task: Answered(keyed(co_segmentation(SIZES, masks).regions))}


def report_of(answers: dict[SubTask, Answered], merged: CoSegmentation = TRUTH) -> dict:
    evaluation = Evaluation()
    evaluation.add("g", TRUTH, answers, merged, difficulties=["clean", "clutter"])
    return evaluation.report()


def test_a_perfect_answer_scores_one_everywhere() -> None:
    report = report_of(right_answers())
    for name in ("strict_miou", "strict_miou_parts", "strict_miou_objects", "AP50", "AP50_own_scores", "mIoU", "recall",
                 "S_IoU", "S_IoU_matched", "name_precision", "name_recall", "occurrence_accuracy", "none_precision",
                 "none_recall"):  # fmt: skip
        assert report["overall"][name] == pytest.approx(1.0), name
        assert report["overall"]["n"][name] > 0, name
    assert report["overall"]["malformed_rate"] == 0
    assert report["overall"]["SS"] is None
    assert "no sentence encoder" in report["overall"]["SS_reason"]
    assert report["reconciled"]["strict_miou"] == 1
    assert report["n_groups"] == 1
    assert set(report["by_part"]) == {"seat", "leg"}
    assert report["by_part"]["seat"]["iou"] == report["by_part"]["seat"]["boundary_f"] == 1
    assert report["by_part"]["seat"]["n"]["iou"] == 2
    assert set(report["by_object"]) == {"chair", "stool"}
    assert set(report["by_difficulty"]) == {"clean", "clutter"}
    assert set(report["by_group_size"]) == {"2"}
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert "np." not in repr(report)


def test_strict_miou_of_one_question() -> None:
    # Keys: chair 1, stool 1, seat of image 1: half of it, seat of image 2 missed, "leg" is not common here.
    masks = [MASKS[0], MASKS[3], NamedMask(0, "chair", "seat", box(0, 0, 5, 4)), MASKS[2]]
    report = report_of(answered(masks))
    figures = report["by_subtask"]["common_parts"]
    assert figures["strict_miou"] == pytest.approx((1 + 1 + 0.5 + 0 + 0) / 5)
    assert figures["strict_miou_parts"] == pytest.approx(0.5 / 3)
    assert figures["strict_miou_objects"] == 1
    assert figures["name_precision"] == pytest.approx(1 / 2)
    assert figures["name_recall"] == pytest.approx(1 / 2)
    # The other two sub-tasks were not asked: nothing is made up for them.
    assert report["by_subtask"]["unique_parts"]["strict_miou"] is None
    assert report["by_subtask"]["unique_parts"]["n"]["strict_miou"] == 0
    assert report["overall"]["strict_miou"] == figures["strict_miou"]


def test_overall_is_the_mean_of_the_sub_tasks() -> None:
    answers = right_answers()
    answers[SubTask.UNIQUE_PARTS] = Answered({CHAIR: ScoredMask(MASKS[0].mask)})
    report = report_of(answers)
    assert report["by_subtask"]["unique_parts"]["strict_miou"] == pytest.approx(1 / 3)
    # The common object of a chair and a stool: none, rightly said, so the mean has two members.
    assert report["by_subtask"]["common_object"]["strict_miou"] is None
    assert report["by_subtask"]["common_object"]["rightly_none"] == 1
    assert report["overall"]["strict_miou"] == pytest.approx((1 + 1 / 3) / 2)
    assert report["overall"]["strict_miou_parts"] == pytest.approx((1 + 0) / 2)


def test_a_wrong_none_and_a_missed_none() -> None:
    answers = right_answers()
    answers[SubTask.UNIQUE_PARTS] = Answered({}, says_none=True)  # the leg is unique
    answers[SubTask.COMMON_OBJECT] = Answered({CHAIR: ScoredMask(MASKS[0].mask)}, says_none=True, malformed=True)
    overall = report_of(answers)["overall"]
    assert (overall["none_precision"], overall["n"]["none_precision"]) == (0, 1)
    assert (overall["none_recall"], overall["n"]["none_recall"]) == (0, 1)
    assert overall["malformed_rate"] == pytest.approx(1 / 3)


def test_a_name_without_a_mask_overlaps_nothing() -> None:
    parsed = parse_answer(render_answer(TRUTH, SubTask.UNIQUE_PARTS).text, SubTask.UNIQUE_PARTS, 2)
    answer = Answered.from_parsed(parsed, [MASKS[0].mask, MASKS[3].mask], [1.0, 1.0])  # the leg's [SEG] has none
    figures = report_of({SubTask.UNIQUE_PARTS: answer})["by_subtask"]["unique_parts"]
    assert (figures["strict_miou_objects"], figures["strict_miou_parts"]) == (1, 0)
    assert figures["name_recall"] == 1


def test_an_extra_name_never_raises_strict_miou() -> None:
    rng = random.Random(0)
    true = keyed(TRUTH.regions)
    for _ in range(30):
        chosen = [item for item in MASKS if rng.random() < 0.7]
        regions = keyed(co_segmentation(SIZES, chosen).regions)
        before = strict_miou(compare(true, regions))
        extra = {RegionKey(rng.randrange(2), "part", "spout"): ScoredMask(box(0, 0, rng.randint(1, 20), 20), 1.0)}
        assert strict_miou(compare(true, regions | extra)) <= before


def test_names_and_occurrence() -> None:
    predicted = co_segmentation(SIZES, [*MASKS[:4], NamedMask(1, "stool", "leg", box(4, 8, 6, 16))])
    counts = name_counts(compare(keyed(TRUTH.regions), keyed(predicted.regions)))
    assert counts == (2, 3, 3)  # seat and leg of image 1 are right, leg of image 2 is not, its seat is missed
    # By that, the seat looks unique and the leg common: both wrong.
    assert occurrence_counts(TRUTH, predicted) == (0, 2)
    assert occurrence_counts(TRUTH, TRUTH) == (3, 3)


def test_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    groups = []
    for number in range(12):
        shifted = [
            item._replace(mask=np.roll(item.mask, rng.integers(0, 4), axis=1), score=float(rng.random()))
            for item in MASKS
            if rng.random() < 0.8
        ]
        groups.append((f"g{number}", shifted))
    reports = []
    for order in (list, reversed):
        evaluation = Evaluation()
        for group_id, masks in order(groups):
            masks = order(masks)
            merged = co_segmentation(SIZES, list(masks))
            answers = {task: Answered(keyed(merged.restricted_to(task).regions)) for task in SubTask}
            evaluation.add(group_id, TRUTH, answers, merged)
        reports.append(evaluation.report())
    assert reports[0] == reports[1]


def test_the_same_group_is_not_counted_twice() -> None:
    evaluation = Evaluation()
    evaluation.add("g", TRUTH, {}, TRUTH)
    with pytest.raises(InputError, match="added before"):
        evaluation.add("g", TRUTH, {}, TRUTH)
    with pytest.raises(InputError, match="expected images of"):
        evaluation.add("h", TRUTH, {}, CoSegmentation(((9, 9), (20, 20))))
    with pytest.raises(InputError, match="difficulties"):
        evaluation.add("h", TRUTH, {}, TRUTH, difficulties=["clean"])
    with pytest.raises(InputError, match="mask of"):
        evaluation.add("h", TRUTH, {SubTask.COMMON_PARTS: Answered({SEAT0: ScoredMask(np.ones((2, 2), bool))})}, TRUTH)


def test_an_empty_evaluation_has_nothing_to_say() -> None:
    report = Evaluation().report()
    assert report["n_groups"] == 0
    assert report["overall"]["strict_miou"] is None
    assert report["overall"]["n"]["strict_miou"] == 0


def picture(
    true: dict[str, np.ndarray], predicted: dict[str, tuple[np.ndarray, float]], id: str = "p"
) -> paper.Picture:
    return paper.Picture.of(
        id,
        {RegionKey(0, "part", name): ScoredMask(mask) for name, mask in true.items()},
        {RegionKey(0, "part", name): ScoredMask(*item) for name, item in predicted.items()},
        0,
    )


def plain_ap(pictures: list[paper.Picture]) -> float:
    """AP at IoU 0.5 as COCO defines it, written out: rank by score, match greedily, 101 points of recall."""
    hits: list[tuple[float, bool]] = []
    for item in pictures:
        free = set(range(len(item.true_names)))
        for column in np.argsort([-s for s in item.scores], kind="stable"):
            best = max(free, key=lambda row: (item.ious[row, column], row), default=None)
            hit = best is not None and item.ious[best, column] >= 0.5
            hits.append((item.scores[column], bool(hit)))
            if hit:
                free.discard(best)
    hits.sort(key=lambda hit: -hit[0])
    found = np.cumsum([hit for _, hit in hits])
    recalls = found / sum(len(item.true_names) for item in pictures)
    precisions = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    points = np.searchsorted(recalls, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precisions[p] if p < len(precisions) else 0.0 for p in points]))


Scene = tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, float]]]


def random_scenes() -> list[Scene]:
    rng = np.random.default_rng(1)
    scenes = []
    for _ in range(25):
        true = {f"t{i}": box(x, 0, x + 5, 20) for i, x in enumerate((0, 6, 12))}
        predicted = {f"p{i}": (box(x, 0, x + 5, 20), float(rng.random())) for i, x in enumerate(rng.integers(0, 15, 3))}
        scenes.append((true, predicted))
    return scenes


def random_pictures() -> list[paper.Picture]:
    return [picture(*scene, f"{number:02d}") for number, scene in enumerate(random_scenes())]


def ap50(pictures: Iterable[paper.Picture], *, own_scores: bool = False) -> float | None:
    """Of pictures in any order, as the figures rank them."""
    return paper.rank(sorted(pictures, key=lambda picture: picture.id), own_scores=own_scores).ap


def test_ap50_against_the_definition() -> None:
    pictures = random_pictures()
    assert ap50(pictures, own_scores=True) == pytest.approx(plain_ap(pictures))
    assert 0.05 < ap50(pictures) < 0.95
    assert ap50(reversed(pictures)) == ap50(pictures)


def test_ap50_at_its_ends() -> None:
    assert ap50([]) is None
    assert ap50([picture({}, {"a": (box(0, 0, 4, 4), 1.0)})]) is None
    assert ap50([picture({"a": box(0, 0, 4, 4)}, {})]) == 0
    # Half of the truth found, nothing wrong: precision 1 up to recall 0.5, so 51 of 101 points.
    found = picture({"a": box(0, 0, 4, 4), "b": box(8, 8, 9, 9)}, {"a": (box(0, 0, 4, 4), 1.0)})
    assert ap50([found]) == pytest.approx(51 / 101)


def test_ap50_ranks_by_order_or_by_score_and_takes_half_an_overlap() -> None:
    # "a" comes first in the order and is wrong; "b" has the better score and an IoU of exactly 0.5.
    one = picture({"b": box(0, 0, 10, 10)}, {"a": (box(15, 15, 20, 20), 0.1), "b": (box(0, 0, 5, 10), 0.9)})
    assert ap50([one]) == pytest.approx(0.5)
    assert ap50([one], own_scores=True) == pytest.approx(1)
    assert paper.pooled([one])["recall"] == (1, 1)


def test_paper_miou_and_recall() -> None:
    true = {"seat": box(0, 0, 10, 10), "front leg": box(10, 10, 20, 20)}
    # A right mask under a half-right name, a half mask under a wrong one, an extra one that mIoU forgives.
    predicted = {"leg": (box(10, 10, 20, 20), 1.0), "wheel": (box(0, 0, 6, 10), 1.0), "lid": (box(0, 15, 2, 20), 1.0)}
    one = picture(true, predicted)
    assert paper.pooled([one])["mIoU"] == (pytest.approx((1 + 0.6) / 2), 1)
    assert paper.pooled([one])["recall"] == (0.5, 2)  # "leg" overlaps "front leg" by 0.5; "wheel" is no "seat"
    missed, empty = picture(true, {}), picture({}, {})
    assert paper.pooled([one, missed, empty])["mIoU"] == (pytest.approx(0.4), 2)
    assert paper.pooled([one, missed, empty])["recall"] == (0.25, 4)


def test_greedy_pairs_take_the_largest_first() -> None:
    assert paper.greedy_pairs(np.array([[0.6, 0.9], [0.0, 0.8]])) == [(0, 1)]
    assert paper.greedy_pairs(np.array([[0.6, 0.9], [0.1, 0.8]])) == [(0, 1), (1, 0)]
    assert paper.greedy_pairs(np.zeros((0, 3))) == []


def test_name_similarity_by_best_name_and_by_mask() -> None:
    true = {"seat": box(0, 0, 10, 10), "front leg": box(10, 10, 20, 20)}
    swapped = {"seat": (box(10, 10, 20, 20), 1.0), "leg": (box(0, 0, 10, 10), 1.0)}
    found = paper.pooled([picture(true, swapped)])
    assert found["S_IoU"] == (pytest.approx((1 + 0.5) / 2), 2)
    assert found["S_IoU_matched"] == (0, 2)
    extra = {"seat": (true["seat"], 1.0), "front leg": (true["front leg"], 1.0), "lid": (box(0, 15, 2, 20), 1.0)}
    found = paper.pooled([picture(true, extra)])
    assert found["S_IoU"] == (1, 2)
    assert found["S_IoU_matched"] == (pytest.approx(2 / 3), 3)  # the extra name counts as a region
    assert found["SS"] == found["SS_matched"] == (None, 0)
    assert word_iou("The Front Leg", "front  leg") == 1


class LetterEncoder:
    """Counts letters: names of the same letters are the same."""

    name = "letters"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        counts = np.array([[name.count(chr(97 + i)) for i in range(26)] for name in names], dtype=float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_ss_needs_an_encoder() -> None:
    renamed = [item._replace(part_name="tase") if item.part_name == "seat" else item for item in MASKS]
    for encoder, recalled in ((None, 2 / 4), (LetterEncoder(), 1.0)):
        evaluation = Evaluation(encoder)
        common = co_segmentation(SIZES, renamed).restricted_to(SubTask.COMMON_PARTS)
        evaluation.add("g", TRUTH, {SubTask.COMMON_PARTS: Answered(keyed(common.regions))}, TRUTH)
        overall = evaluation.report()["overall"]
        assert overall["recall"] == pytest.approx(recalled)
        assert overall["SS"] == (None if encoder is None else pytest.approx(100))
        assert overall["n"]["SS"] == (0 if encoder is None else 4)


def test_minilm_reads_a_local_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "seat", "leg", "front"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    encoder = MiniLMEncoder(tmp_path)
    names = ["seat", "front leg", "leg"]
    vectors = encoder.encode(names)
    assert vectors.shape == (3, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    # Padding counts for nothing: a name alone embeds as it does beside a longer one.
    assert np.allclose(MiniLMEncoder(tmp_path).encode(["leg"])[0], vectors[2], atol=1e-6)
    assert np.allclose(np.diag(cosines(names, names, encoder)), 1)
    with pytest.raises(InputError, match="sentence encoder"):
        MiniLMEncoder(tmp_path / "nowhere")


def test_spearman() -> None:
    assert spearman([0.1, 0.2, 0.9], [1, 5, 7]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486832980505138)  # ties at their mean rank
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([1], [1]) is None


def test_calibration_table() -> None:
    table = calibration_table([0.05, 0.15, 0.12, 1.0], [0.0, 0.4, 0.2, 0.9])
    assert [row["n"] for row in table] == [1, 2, 1]
    assert table[1]["mean_iou"] == pytest.approx(0.3)
    assert (table[2]["score_from"], table[2]["score_to"]) == (0.9, 1.0)
    assert calibration_table([], []) == []


def test_scores_are_compared_within_parts_and_a_wrong_name_counts_zero() -> None:
    masks = [
        MASKS[0]._replace(score=0.0),  # an object: not looked at
        MASKS[1]._replace(score=0.9),
        NamedMask(0, "chair", "leg", box(0, 4, 2, 8), 0.5),  # half right
        NamedMask(0, "chair", "wheel", MASKS[2].mask, 0.1),  # a wrong name
    ]
    report = report_of({}, co_segmentation(SIZES, masks))
    assert report["overall"]["score_spearman"] == pytest.approx(1)
    assert report["overall"]["n"]["score_spearman"] == 3
    assert [row["mean_iou"] for row in report["calibration"]] == pytest.approx([0, 0.5, 1])


def test_clicks() -> None:
    evaluation = Evaluation()
    evaluation.add("g", TRUTH, {}, TRUTH)
    for kind, value, part in (("point", 0.2, "leg"), ("point", 0.6, "seat"), ("box", 0.9, "seat")):
        evaluation.add_click(kind, value, group_id="g", object_name="chair", part_name=part)
    report = evaluation.report()
    assert report["overall"]["point_iou"] == pytest.approx(0.4)
    assert report["overall"]["n"]["point_iou"] == 2
    assert report["overall"]["box_iou"] == 0.9
    assert report["overall"]["point3_iou"] is None
    assert report["by_part"]["leg"]["point_iou"] == 0.2
    assert report["by_object"]["chair"]["n"]["point_iou"] == 2
    with pytest.raises(InputError, match="expected one of point, point3, box"):
        evaluation.add_click("scribble", 1.0, group_id="g")
    with pytest.raises(InputError, match="'h', which was not added"):
        evaluation.add_click("point", 1.0, group_id="h")


def spread_of(values: Sequence[float], groups: Sequence[int] | None = None) -> dict:
    """The block of one mean over groups."""
    groups = list(range(len(values))) if groups is None else groups
    figures = GroupFigures(Bootstrap(max(groups, default=0) + 1))
    figures.mean("it", zip(groups, values, strict=True))
    return figures.as_dict()


def test_standard_error_and_interval_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(size=400)
    block = spread_of(values.tolist())
    assert block["it"] == pytest.approx(values.mean())
    assert block["n"]["it"] == 400
    assert block["stderr"]["it"] == pytest.approx(values.std() / 20, rel=0.1)
    low, high = block["interval"]["it"]
    assert (low, high) == pytest.approx((values.mean() - 0.098, values.mean() + 0.098), abs=0.02)
    assert spread_of(values.tolist()) == block  # seeded
    # The same values from 40 groups that agree within themselves are worth 40 samples.
    clustered = spread_of(np.repeat(values[:40], 10).tolist(), np.repeat(np.arange(40), 10).tolist())
    assert clustered["stderr"]["it"] == pytest.approx(values[:40].std() / 40**0.5, rel=0.1)
    assert clustered["n"]["it"] == 400
    for nobody_knows in ([1.0], [0.2, 0.4], [1.0, 1.0, 1.0]):
        one_group = [0] * len(nobody_knows) if len(nobody_knows) == 2 else None
        block = spread_of(nobody_knows, one_group)
        assert (block["stderr"]["it"], block["interval"]["it"]) == (None, None)


def test_ap50_drawn_again_with_every_picture_once_is_ap50() -> None:
    pictures = random_pictures()
    for own_scores in (False, True):
        ranking = paper.rank(pictures, own_scores=own_scores)
        even = np.ones((1, len(pictures)))
        assert ranking.resampled(even)[0] == pytest.approx(ranking.ap)
        # A picture drawn twice is the picture and its copy.
        weights = np.ones((1, len(pictures)))
        weights[0, 3] = 2
        copied = [p for k, p in enumerate(pictures) for _ in range(2 if k == 3 else 1)]
        assert ranking.resampled(weights)[0] == pytest.approx(paper.rank(copied, own_scores=own_scores).ap, abs=0.01)
    assert np.isnan(ranking.resampled(np.zeros((1, len(pictures))))[0])


def test_ap50_against_cocoeval_on_masks() -> None:
    """pycocotools itself, from run lengths, as anybody would call it."""
    groups = random_scenes()
    truth = {"images": [], "categories": [{"id": 1}], "annotations": []}
    found = []
    for number, (true, predicted) in enumerate(groups, start=1):
        truth["images"].append({"id": number, "height": 20, "width": 20})
        for name in sorted(true):
            row = {"image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": encode_rle(true[name])}
            truth["annotations"].append(row | {"id": len(truth["annotations"]) + 1, "area": int(true[name].sum())})
        for name in sorted(predicted):
            mask, score = predicted[name]
            found.append({"image_id": number, "category_id": 1, "score": score, "segmentation": encode_rle(mask)})
    pictures = [picture(*scene, f"{number:03d}") for number, scene in enumerate(groups)]
    for own_scores in (False, True):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            coco = COCO()
            coco.dataset = truth
            coco.createIndex()
            results = coco.loadRes([row if own_scores else row | {"score": 1.0} for row in found])
            scoring = COCOeval(coco, results, "segm")
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
        assert 0.1 < scoring.stats[1] < 0.9
        assert ap50(pictures, own_scores=own_scores) == pytest.approx(scoring.stats[1], abs=1e-12)


def test_an_extra_name_that_is_not_true_never_raises_strict_miou() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        masks = [
            item._replace(mask=np.roll(item.mask, int(rng.integers(0, 5)), axis=1))
            for item in MASKS
            if rng.random() < 0.7
        ]
        for kind in (None, "part", "object"):
            before = strict_miou(compare(keyed(TRUTH.regions), keyed(regions_of(masks))), kind)
            extra = NamedMask(0, "chair", "wheel", rng.random((20, 20)) < 0.5)
            after = strict_miou(compare(keyed(TRUTH.regions), keyed(regions_of([*masks, extra]))), kind)
            assert before is not None
            assert after is not None
            assert after <= before
            if kind == "part":
                assert after == pytest.approx(before * 3 / 4)  # three true part keys, now four


def test_only_what_was_asked_is_held_against_the_reconciled_result() -> None:
    unique = SubTask.UNIQUE_PARTS
    asked = TRUTH.restricted_to(unique)
    evaluation = Evaluation()
    assert evaluation.add("g", TRUTH, {unique: right_answers()[unique]}, asked, source="paco") == 1
    report = evaluation.report()
    assert report["reconciled"]["strict_miou"] == 1
    assert set(report["by_part"]) == {"leg"}
    assert report["by_source"]["paco"]["by_subtask"]["unique_parts"]["AP50"] == 1
    assert report["by_source"]["paco"]["by_subtask"]["common_parts"]["AP50"] is None


def test_regions_by_their_share_of_the_image() -> None:
    # Of 400 pixels: leg 16 (4 %), seats 40 (10 %) and 48 (12 %), objects 100 and 144.
    report = report_of({}, co_segmentation(SIZES, [MASKS[0], MASKS[2], MASKS[3], MASKS[4]]))
    sizes = report["by_region_size"]
    assert sizes["2 to 8 %"]["iou_parts"] == 1
    assert sizes["2 to 8 %"]["n"]["iou_parts"] == 1
    assert sizes["8 % and more"]["iou_parts"] == 0.5
    assert sizes["8 % and more"]["n"]["iou_object"] == 2
    assert sizes["under 0.5 %"]["iou"] is None
    found = report["curves"]["found"]["parts"]
    assert found["n"] == 3
    assert found["share"][0] == 1
    assert found["share"][1:] == pytest.approx([2 / 3] * 20)


def test_scores_within_parts() -> None:
    # All together the scores rank well, as wheels are easy and score high; among wheels they rank the wrong way round.
    wheel, leg = [0.9, 0.8, 0.7], [0.3, 0.2, 0.1]
    labels = ["wheel"] * 3 + ["leg"] * 3 + ["lid"] * 2
    scores, ious = [*wheel, *leg, 0.5, 0.5], [0.7, 0.8, 0.9, 0.3, 0.2, 0.1, 0.4, 0.6]
    assert spearman(scores[:6], ious[:6]) > 0.7
    assert spearman_within(labels, scores, ious, at_least=2) == (0, 6)  # -1 and +1; lids do not vary
    assert spearman_within(labels, scores, ious, at_least=4) == (None, 0)
    weighted = spearman_within(["a"] * 2 + ["b"] * 6, [1, 2, 1, 2, 3, 4, 5, 6], [2, 1, 1, 2, 3, 4, 5, 6], at_least=2)
    assert weighted == (pytest.approx((2 * -1 + 6 * 1) / 8), 8)


def test_calibration_error() -> None:
    table = calibration_table([0.05, 0.15, 0.12, 1.0], [0.0, 0.4, 0.2, 0.9])
    assert calibration_error(table) == pytest.approx((1 * 0.05 + 2 * abs(0.135 - 0.3) + 1 * 0.1) / 4)
    assert calibration_error([]) is None


def test_the_lexical_fallback() -> None:
    encoder = TrigramEncoder()
    names = ["front leg", "the Leg", "leg", "seat"]
    vectors = encoder.encode(names)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    likeness = cosines(names, names, encoder)
    assert likeness[1, 2] == pytest.approx(1)
    assert 0.3 < likeness[0, 2] < 0.8
    assert likeness[2, 3] == 0
    assert "not Sentence-BERT" in encoder.name


def test_which_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(MiniLMEncoder, "installed", classmethod(lambda cls: None))
    assert sentence_encoder() is None
    assert isinstance(sentence_encoder(otherwise="lexical"), TrigramEncoder)
    assert isinstance(sentence_encoder("lexical"), TrigramEncoder)
    assert sentence_encoder("none", otherwise="lexical") is None
    with pytest.raises(InputError, match=r"calico-coseg\[sentence\]"):
        sentence_encoder("minilm")
    with pytest.raises(InputError, match=r"config.json and model.safetensors"):
        sentence_encoder(str(tmp_path))
    installed = TrigramEncoder()
    monkeypatch.setattr(MiniLMEncoder, "installed", classmethod(lambda cls: installed))
    assert sentence_encoder() is sentence_encoder("minilm") is installed


def test_real_sentence_bert() -> None:
    """all-MiniLM-L6-v2 by its model card's way; needs the extra `sentence`."""
    encoder = MiniLMEncoder.installed()
    if encoder is None:
        pytest.skip(NO_ENCODER)
    likeness = cosines(["wheel", "leg"], ["tire", "wheel", "keyboard"], encoder)
    assert encoder.encode(["wheel"]).shape == (1, 384)
    assert likeness[0, 1] == pytest.approx(1, abs=1e-5)
    assert likeness[0, 0] > 0.5 > likeness[1, 2]
