"""The dashboard as HTML: whole, or the parts that the page's own script puts in anew every few seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from json import dumps
from typing import Any

from calico.pictures.pages import NOTHING, page, table

STYLE = """
td { white-space: normal; vertical-align: top; }
header { display: flex; margin-bottom: 1rem; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: baseline; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem; }
.card b { font-size: 1.15rem; overflow-wrap: anywhere; }
.card p { margin: .3rem 0 0; }
.warn { border-left: 4px solid #d9822b; }
progress { width: 100%; }
button { font: inherit; padding: .25rem .8rem; border-radius: 6px; border: 1px solid var(--line); cursor: pointer;
  background: var(--ground); color: var(--ink); }
button:disabled { opacity: .5; cursor: default; }
#said { min-height: 1.5em; }
td img, .card img { display: block; max-width: 100%; border-radius: 6px; }
td img { height: 96px; min-width: 8rem; object-fit: contain; object-position: left; }
td time { white-space: nowrap; }
.images img { height: auto; }
pre { margin: .5rem 0 0; padding: .6rem; max-height: 14rem; overflow: auto; background: var(--ground);
  font: .82em ui-monospace, monospace; }
"""

SCRIPT = """
const root = document.querySelector('main');
const said = document.getElementById('said');
async function refresh() {
  if (document.hidden || root.querySelector('details[open]')) return;
  const answer = await fetch(root.dataset.self, {headers: {Accept: 'text/html'}});
  if (answer.ok) root.innerHTML = await answer.text();
}
setInterval(() => refresh().catch(() => {}), 5000);
document.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-post]');
  if (!button) return;
  const body = JSON.parse(button.dataset.body || '{}');
  if (button.dataset.ask && !confirm(button.dataset.ask)) return;
  if (button.dataset.reason) {
    const reason = prompt(button.dataset.reason);
    if (!reason) return;
    body.reason = reason;
  }
  button.disabled = true;
  try {
    const answer = await fetch(button.dataset.post, {method: 'POST', body: JSON.stringify(body),
      headers: {'Content-Type': 'application/json', Accept: 'application/json'}});
    const told = await answer.json();
    said.textContent = answer.ok ? button.dataset.done : told.error;
  } catch (error) { said.textContent = 'The backend does not answer.'; }
  button.disabled = false;
  refresh().catch(() => {});
});
"""


def dashboard_page(data: Mapping[str, Any], root: str) -> str:
    """data: as `Dashboard.data` says. root: the path that everything is served below, the secret in it. HTML."""
    self = escape(f"{root}/?parts=1", quote=True)
    body = f"""<header><h1>CALICO</h1><span class="soft" id="said" role="status"></span></header>
<main data-self="{self}">{dashboard_parts(data, root)}</main>
<script>{SCRIPT}</script>"""
    return page("CALICO", body, style=STYLE)


def dashboard_parts(data: Mapping[str, Any], root: str) -> str:
    """What changes. HTML."""
    jobs = data["training"]
    parts = [
        f'<div class="cards">{_serving_card(data, root)}{_queue_card(data)}{_training_card(jobs, root)}</div>',
        "<h2>Versions</h2>",
        _versions(data["versions"], root),
        "<h2>What annotators did to predictions</h2>",
        _corrections(data["corrections"]),
        *_memories(data.get("part_memories") or []),
        "<h2>Training jobs</h2>",
        _jobs(jobs, root),
        "<h2>Groups lately asked about</h2>",
        _groups(data["groups"]["jobs"], root),
    ]
    return "\n".join(parts)


# -- cards ------------------------------------------------------------------------------------------------------------


def _serving_card(data: Mapping[str, Any], root: str) -> str:
    serving = data["serving"]
    lines = [f'<span class="soft">Serves</span><br><b>{escape(str(serving.get("version", serving["state"])))}</b>']
    if "since" in serving:
        lines.append(f"<p>since {escape(_minute(serving['since']))}, by {escape(serving['action'])}</p>")
        lines.append(f'<p class="soft">{escape(serving["reason"])}</p>')
    if "loading" in serving:
        waits_for = ", ".join(serving.get("waits_for", ()))
        until = f"is loaded and waits for {escape(waits_for)}" if waits_for else "is being loaded and takes over then"
        lines.append(f"<p>{escape(serving['loading'])} {until}.</p>")
    if "workers" in serving:
        states = Counter(worker["state"] for worker in serving["workers"])
        worker_states = ", ".join(f"{count} {escape(state)}" for state, count in sorted(states.items())) or "none"
        calls = ", ".join(f"{worker['worker']}: {worker['calls']}" for worker in serving["workers"])
        lines.append(f'<p>Workers: {worker_states}</p><p class="soft">calls answered: {escape(calls)}</p>')
    problems = [serving[name] for name in ("problem", "inbox") if name in serving]
    lines += [f"<p><b>Problem:</b> {escape(problem)}</p>" for problem in problems]
    if "since" in serving and serving.get("version") != serving.get("before"):
        before = serving.get("before") or "the embedded checkpoint"
        ask = f"Go back to {before}? Requests wait until it has loaded."
        lines.append(f"<p>{_button('Roll back', f'{root}/versions/rollback', done='Rolled back.', ask=ask)}</p>")
    return f'<div class="card{" warn" if problems else ""}">{"".join(lines)}</div>'


def _queue_card(data: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {escape(state)}" for state, count in data["groups"]["counts"].items() if count)
    waiting = data["waiting"]
    calls = "no call waits" if not waiting else f"{waiting} call{'s' * (waiting != 1)} wait for the model"
    return (
        f'<div class="card"><span class="soft">Groups since the start</span><br><b>{calls}</b>'
        f"<p>{counts or 'none yet'}</p></div>"
    )


def _training_card(jobs: Sequence[Mapping[str, Any]] | None, root: str) -> str:
    title = '<span class="soft">Training</span><br>'
    if jobs is None:
        return f'<div class="card">{title}<b>off</b><p>CALICO_VERSIONS names no registry of versions.</p></div>'
    running = next((job for job in jobs if job["state"] == "running"), None)
    if running is None:
        projects = sorted({job["project"] for job in jobs})
        buttons = " ".join(
            _button(f"Train on project {number}", f"{root}/jobs/training", body={"project": number}, done="Queued.")
            for number in projects
        )
        hint = "" if projects else "<p>Ask for the first with <i>Start training</i>, in a project's settings.</p>"
        return f'<div class="card">{title}<b>no job runs</b>{hint}<p>{buttons}</p></div>'
    name = f"job {running['id']} of project {running['project']}"
    cancel = f"{root}/jobs/training/{running['id']}/cancel"
    return (
        f'<div class="card">{title}<b>{escape(name)}</b>{_progress(running)}'
        f"<p>{_button('Cancel', cancel, done='It is being cancelled.', ask=f'Cancel {name}?')}</p></div>"
    )


def _progress(job: Mapping[str, Any]) -> str:
    """The phase that runs, how far it is, and how long it will take yet at the pace so far."""
    progress = job["progress"]
    if not progress or job["state"] != "running":
        return ""
    share = min(1.0, max(0.0, float(progress.get("share") or 0)))
    elapsed = progress.get("elapsed_s")
    remaining = ""
    if elapsed and 0.02 < share < 1:
        remaining = f", about {_duration(elapsed * (1 - share) / share)} left of this phase"
    bar = "<progress></progress>" if share == 0 else f'<progress value="{share:.3f}"></progress>'
    note = f"{progress.get('what', '')}: {progress.get('note', '')}".rstrip(": ")
    return f'<p>{escape(note)}{remaining}</p>{bar}<p class="soft">running for {_duration(job["seconds"])}</p>'


# -- tables -----------------------------------------------------------------------------------------------------------


def _versions(versions: Sequence[Mapping[str, Any]], root: str) -> str:
    if not versions:
        return "<p>None yet: the embedded checkpoint serves, or the one of CALICO_CHECKPOINT.</p>"
    rows = []
    for version in versions:
        decision = version["decision"] or {}
        if version["is_current"]:
            act = "<b>serves</b>"
        else:
            is_passed = decision.get("verdict") == "publish"
            act = _button(
                "Publish",
                f"{root}/versions/publish",
                body={"version": version["id"]},
                done=f"{version['id']} is published; it takes over once it has loaded.",
                ask=f"Publish {version['id']}?" if is_passed else "",
                reason="" if is_passed else f"The gate did not let {version['id']} through. Why publish it anyway?",
            )
        reason = escape(str(decision.get("reason", "was not compared")))
        rows.append([escape(version["id"]), escape(_minute(version["created_at"])), reason, act])
    return table(["version", "made", "the gate says", ""], rows)


def _corrections(corrections: Sequence[Mapping[str, Any]]) -> str:
    if not corrections:
        return "<p>No snapshot yet: the first training job gathers the corrections.</p>"
    columns = ["groups", "untouched", "kept", "edited", "relabelled", "deleted", "added"]
    head = ["project", "week", "version", "groups", "submitted untouched", *[f"regions {name}" for name in columns[2:]]]
    rows = [
        [_text(row["project"]), _text(row["week"]), _text(row["version"]), *[_text(row[name]) for name in columns]]
        for row in corrections
    ]
    return table(head, rows)


def _memories(memories: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was learnt while people label. estimate: strict mIoU of parts on images that a head has not seen."""
    if not memories:
        return []
    rows = [
        [
            _text(row["project"]),
            _text(f"{row['state']}: {row['problem']}" if row["problem"] else row["state"]),
            _text(row["groups"]),
            _text(None if row["estimate"] is None else f"{row['estimate']:.2f} (n = {row['num_measured']} images)"),
            _text(", ".join(row["names"])),
            _text(row["seconds"]),
        ]
        for row in memories
    ]
    head = ["project", "state", "groups", "estimate", "names", "seconds"]
    return ["<h2>Learnt while people label</h2>", table(head, rows)]


def _jobs(jobs: Sequence[Mapping[str, Any]] | None, root: str) -> str:
    if not jobs:
        return "<p>None yet.</p>"
    rows = []
    for job in jobs:
        outcome = job["outcome"] or {}
        ended = _text(job["reason"])
        if job["state"] == "done":
            done = "published" if outcome.get("published") else "not published"
            ended = f"{escape(str(outcome.get('version', 'no version')))}, {done}: {escape(str(job['reason']))}"
        pictures = _pictures(job["pictures"], f"{root}/jobs/training/{job['id']}/pictures")
        log = escape("\n".join(job["log"])) or "(it said nothing yet)"
        more = f"<details><summary>pictures and log</summary>{pictures}<pre>{log}</pre></details>"
        request_time = datetime.fromtimestamp(job["requested_at"], UTC).isoformat(" ", "minutes").removesuffix("+00:00")
        trigger = f'{escape(job["trigger"])}<br><span class="soft">{request_time} UTC</span>'
        state = f"{job['state']}, being cancelled" if job["is_being_cancelled"] else job["state"]
        seconds = NOTHING if job["seconds"] is None else _duration(job["seconds"])
        rows.append([_text(job["id"]), _text(job["project"]), trigger, escape(state), seconds, ended, more])
    return table(["job", "project", "asked for", "state", "took", "outcome", ""], rows)


def _pictures(names: Sequence[str], base: str) -> str:
    """Held-out groups, what the champion shows beside what the challenger shows; then the curves."""
    figures = []
    for name in sorted(names, key=lambda name: (name.endswith(".png"), name.rpartition("-")[2], "challenger" in name)):
        side = "training" if name.endswith(".png") else "after" if "challenger" in name else "before"
        address = escape(f"{base}/{name}", quote=True)
        image = f'<img src="{address}" alt="{side}" loading="lazy">'
        figures.append(f"<figure>{image}<figcaption>{side}</figcaption></figure>")
    return f'<div class="images">{"".join(figures)}</div>' if figures else ""


def _groups(groups: Sequence[Mapping[str, Any]], root: str) -> str:
    if not groups:
        return "<p>None yet.</p>"
    rows = []
    for job in groups:
        name = escape(job["title"] or f"task {job['task']}")
        link = job["host_link"]
        title = f'<a href="{escape(link, quote=True)}" rel="noreferrer">{name}</a>' if link else name
        picture = NOTHING
        if job["has_picture"]:
            address = escape(f"{root}/groups/{job['id']}/picture", quote=True)
            picture = f'<a href="{address}"><img src="{address}" alt="{name}" loading="lazy"></a>'
        notes = "<br>".join(map(escape, filter(None, [job["reason"], *job["problems"]])))
        seconds = NOTHING if job["seconds"] is None else f"<time>{job['seconds']:.1f} s</time>"
        project = str(job["project"] or "").partition(".")[0]  # the host adds when it was made
        rows.append([title, _text(project), escape(job["state"]), seconds, picture, notes or NOTHING])
    return table(["task", "project", "state", "took", "prediction", "notes"], rows)


def _button(
    text: str, address: str, *, body: Mapping[str, Any] | None = None, done: str, ask: str = "", reason: str = ""
) -> str:
    """ask: a question to be answered with yes first. reason: one to be answered with words, which go along."""
    values = {"post": address, "body": dumps(body or {}), "done": done, "ask": ask, "reason": reason}
    data = " ".join(f'data-{key}="{escape(value, quote=True)}"' for key, value in values.items() if value)
    return f"<button {data}>{escape(text)}</button>"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ") + " UTC"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "no time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _text(value: Any) -> str:
    return NOTHING if value in (None, "") else escape(str(value))
