"""What predictions were worth, from what became of their regions: by model version, object and part. Flat memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from statistics import fmean, median
from typing import Any

from calico.metrics.figures import Figures

CHANGES = ("kept", "edited", "relabelled", "deleted", "added")
NUM_EXTREMES = 10
WHOLE_OBJECT = "(object)"


class _Tally:
    """Sums over regions. Shares are over what was predicted; added regions are counted beside them."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter(dict.fromkeys(CHANGES, 0))
        self.sums: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        self.changes[row["change"]] += 1
        for name in ("iou", "boundary_f", "is_name_right"):
            self._value(name, row[name])
        if row["part"] is not None:
            self._value("is_occurrence_right", row["is_occurrence_right"])

    def _value(self, name: str, value: float | bool | None) -> None:
        if value is not None:
            self.sums[name] += float(value)  # type: ignore[assignment]
            self.counts[name] += 1

    def as_dict(self) -> dict[str, Any]:
        figures = Figures()
        num_predicted = self.changes.total() - self.changes["added"]
        for change in CHANGES:
            figures.put(change, self.changes[change], num_predicted if change != "added" else self.changes["added"])
        for name, label in (
            ("iou", "iou"),
            ("boundary_f", "boundary_f"),
            ("is_name_right", "name_accuracy"),
            ("is_occurrence_right", "occurrence_accuracy"),
        ):
            n = self.counts[name]
            figures.put(label, self.sums[name] / n if n else None, n)
        return figures.as_dict()


def feedback_report(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """JSON-ready, over the lines of a snapshot (`Snapshot.records`); every figure with its n.

    iou, boundary_f, name and occurrence accuracy: over predicted regions that are still there in some form. A group's
    score: the mean IoU over its predicted and added regions, 0 for those deleted or added. lead_time: only where groups
    were held out at random, so that nobody chose the arms; held-out groups that had a prediction count in neither.
    regions: those left untouched, and how many of them are of groups that were submitted as predicted, which a person
    may or may not have looked at; against those corrected and added.
    """
    overall = _Tally()
    by: dict[str, dict[str, _Tally]] = {"by_version": {}, "by_object": {}, "by_part": {}}
    best: list[tuple[float, str]] = []
    worst: list[tuple[float, str]] = []
    arms: dict[str, list[float]] = {"with_prediction": [], "without_prediction": []}
    num_groups = num_predicted = num_accepted = 0
    num_untouched_there = 0  # regions of groups that were submitted as they were
    was_held_out = False
    for record in records:
        num_groups += 1
        source, rows = record["provenance"], record["changes"]
        num_accepted += bool(source["accepted_as_is"])
        was_held_out |= source.get("held_out") is not None
        arm = _arm(source)
        if arm is not None and source.get("lead_time_s") is not None:
            arms[arm].append(float(source["lead_time_s"]))
        if rows is None:
            continue
        num_predicted += 1
        if source["accepted_as_is"]:
            num_untouched_there += len(rows)
        for row in rows:
            overall.add(row)
            for name, key in (
                ("by_version", source.get("model_version") or "unknown"),
                ("by_object", row["object"]),
                ("by_part", row["part"] or WHOLE_OBJECT),
            ):
                by[name].setdefault(key, _Tally()).add(row)
        if rows:
            score = sum(row["iou"] or 0.0 for row in rows) / len(rows)
            _keep(best, (score, record["id"]))
            _keep(worst, (-score, record["id"]))
    return {
        "num_groups": num_groups,
        "num_groups_with_prediction": num_predicted,
        "num_accepted_as_is": num_accepted,
        "regions": {
            "untouched": overall.changes["kept"],
            "of_untouched_groups": num_untouched_there,
            "corrected": sum(overall.changes[change] for change in ("edited", "relabelled", "deleted")),
            "added": overall.changes["added"],
        },
        "overall": overall.as_dict(),
        **{name: {key: tallies[key].as_dict() for key in sorted(tallies)} for name, tallies in by.items()},
        "best_groups": [{"group": group, "score": score} for score, group in sorted(best, key=lambda x: (-x[0], x[1]))],
        "worst_groups": [
            {"group": group, "score": -score} for score, group in sorted(worst, key=lambda x: (-x[0], x[1]))
        ],
        "lead_time": {name: _times(arms[name]) for name in sorted(arms)} if was_held_out else None,
    }


def changes_by_week(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What became of predicted regions, a row per model version and ISO week of the annotation, the newest week first.

    Each row holds version, week (`2026-W48`, empty where the time is not known), groups, untouched (groups submitted as
    predicted), and the number of regions kept, edited, relabelled, deleted and added.
    """
    rows: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        source, changes = record["provenance"], record["changes"]
        if changes is None:
            continue
        key = _week(source.get("updated_at") or source.get("created_at")), str(source.get("model_version") or "unknown")
        counts = rows.setdefault(key, Counter())
        counts["groups"] += 1
        counts["untouched"] += bool(source["accepted_as_is"])
        counts.update(row["change"] for row in changes)
    names = ("groups", "untouched", *CHANGES)
    return [
        {"version": version, "week": week, **{name: counts[name] for name in names}}
        for (week, version), counts in sorted(rows.items(), reverse=True)
    ]


def _week(time: Any) -> str:
    try:
        year, week, _ = datetime.fromisoformat(str(time)).isocalendar()
    except ValueError:
        return ""
    return f"{year}-W{week:02d}"


def _arm(source: Mapping[str, Any]) -> str | None:
    held_out = source.get("held_out")
    if held_out is None:
        return None
    was_predicted = source.get("prediction") is not None
    if held_out:
        return None if was_predicted or source.get("has_predictions") else "without_prediction"
    return "with_prediction" if was_predicted else None


def _keep(heap: list[tuple[float, str]], item: tuple[float, str]) -> None:
    """The largest few."""
    if len(heap) < NUM_EXTREMES:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _times(seconds: list[float]) -> dict[str, Any]:
    if not seconds:
        return {"n": 0, "mean_s": None, "median_s": None}
    return {"n": len(seconds), "mean_s": fmean(seconds), "median_s": median(seconds)}
