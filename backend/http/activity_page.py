"""The page `/jobs` for people: training first, then the groups that were asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from calico.pictures.pages import NOTHING, page, table

STYLE = """
td { white-space: normal; vertical-align: top; }
pre { margin: 0; padding: .8rem; max-height: 22rem; overflow: auto; font: .85em ui-monospace, monospace; }
progress { width: 10rem; }
"""


def jobs_page(groups: Mapping[str, Any], training: Sequence[Mapping[str, Any]] | None, version: str) -> str:
    """groups: as `Jobs.as_json` says. training: as `Training.as_json` does; None where it is off. HTML."""
    parts = [f'<h1>CALICO</h1><p class="soft">serves {escape(version)}</p>', "<h2>Training</h2>"]
    if training is None:
        parts.append("<p>Off: <code>CALICO_VERSIONS</code> names no registry of versions.</p>")
    elif not training:
        parts.append("<p>No job yet. <i>Start training</i> in the project's settings, under Model, asks for one.</p>")
    else:
        head = ["job", "project", "asked for", "state", "seconds", "progress", "outcome"]
        parts.append(table(head, [_training_row(job) for job in training]))
        parts.append(f'<h2>Log of job {training[0]["id"]}</h2><div class="table"><pre>{_log(training[0])}</pre></div>')
    counts = ", ".join(f"{count} {escape(state)}" for state, count in groups["counts"].items() if count)
    parts.append(f"<h2>Groups</h2><p>{counts or 'none yet'}</p>")
    if groups["jobs"]:
        rows = [
            [_text(job[name]) for name in ("id", "project", "task", "state", "seconds", "reason")]
            + ["<br>".join(map(escape, job["problems"])) or NOTHING]
            for job in groups["jobs"]
        ]
        parts.append(table(["job", "project", "task", "state", "seconds", "reason", "problems"], rows))
    return page("CALICO: jobs", "\n".join(parts), style=STYLE)


def _training_row(job: Mapping[str, Any]) -> list[str]:
    asked = datetime.fromtimestamp(job["requested_at"], UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    state = f"{job['state']}, being cancelled" if job["is_being_cancelled"] else job["state"]
    return [
        _text(job["id"]), _text(job["project"]), f'{escape(job["trigger"])}<br><span class="soft">{asked} UTC</span>',
        escape(state), _text(job["seconds"]), _progress(job), _text(_outcome(job)),
    ]  # fmt: skip


def _progress(job: Mapping[str, Any]) -> str:
    told = job["progress"]
    if not told or job["state"] != "running":
        return NOTHING
    share = min(1.0, max(0.0, float(told.get("share") or 0)))
    note = f"{told.get('what', '')}: {told.get('note', '')}"
    return f'<progress value="{share:.3f}"></progress><br><span class="soft">{escape(note)}</span>'


def _outcome(job: Mapping[str, Any]) -> str:
    outcome = job["outcome"] or {}
    if job["state"] != "done":
        return str(job["reason"])
    done = "published" if outcome.get("published") else "not published"
    return f"{outcome.get('version', 'no version')}, {done}: {job['reason']}"


def _log(job: Mapping[str, Any]) -> str:
    return escape("\n".join(job["log"])) or "(it said nothing yet)"


def _text(value: Any) -> str:
    return NOTHING if value in (None, "") else escape(str(value))
