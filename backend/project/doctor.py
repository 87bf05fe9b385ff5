"""Does one project really work, host to backend and back? Each check is ok, or one line with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from backend.codecs.config import read_config, task_images
from backend.host.client import HostError, LabelStudioClient
from backend.media.fetching import is_public, resolve
from backend.media.media import Media
from backend.project.backend_client import BackendClient, BackendError, without_secret
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError, InputError

BLOCKED = (
    "the host refuses private addresses; start Label Studio with LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false, "
    "then remove the backend from the project and connect it again"
)

Json = dict[str, Any]

# Of CPU in Chromium, for brush masks in Label Studio 1.23.2; measured in docs/measurements.md ("Submit").
SUBMIT_S_PER_MEGAPIXEL = 0.27
SLOW_SUBMIT_S = 10.0


@dataclass(frozen=True)
class Check:
    """detail: what was found, or what is wrong and what to do about it. is_warning: it works, and could work better."""

    name: str
    ok: bool
    detail: str
    is_warning: bool = False

    @property
    def line(self) -> str:
        mark = "NO" if not self.ok else "!" if self.is_warning else "ok"
        return f"{mark:<4}{self.name:<16}{self.detail}"

    def as_json(self) -> Json:
        return asdict(self)


def examine_project(
    client: LabelStudioClient, project: int, settings: Settings, *, backend: BackendClient | None = None
) -> Iterator[Check]:
    """Checks in the order in which things depend on each other; ends early where nothing further can be told.

    backend: as this machine reaches it; None: by the address that the project has.
    """
    record: Json = {}
    for name, call in {
        "host": lambda: f"Label Studio {client.version()} at {client.url}",
        "token": lambda: f"{client.token_kind}, of {client.whoami().get('email', 'an unnamed user')}",
        "project": lambda: _project(client, project, record),
    }.items():
        check = _check(name, call)
        yield check
        if not check.ok:
            return
    yield _check("labels", lambda: _labels(record["label_config"]))

    registered = next(iter(client.backends(project)), None)
    yield _check("connection", lambda: _connection(project, registered))
    if registered is not None:
        url = registered["url"].rstrip("/")
        yield _check("host > backend", lambda: _host_reaches(client, registered))
        yield _check("address block", lambda: _address_block(client, registered, url))
        yield _check("webhook", lambda: _webhook(client, project, url))
        backend = backend or BackendClient(url, auth=settings.basic_auth)
    if backend is not None:
        reached = backend
        health = _check("backend", lambda: _health(reached))
        yield health
        if health.ok:
            yield _check("versions", lambda: _versions(client, project, reached))
            yield _knows(reached)
        else:
            backend = None
    task = next(islice(client.tasks(project, page_size=1), 1), None)
    if task is not None:
        rows: list[Json] = []
        yield _check("a real task", lambda: _real_task(client, task, record["label_config"], settings, backend, rows))
        if (slow := _slow_submit(rows)) is not None:
            yield slow
    yield _check("GPU", lambda: _gpu(settings))


def _check(name: str, call: Callable[[], str]) -> Check:
    try:
        return Check(name, True, call())
    except CalicoError as error:
        return Check(name, False, without_secret(" ".join(str(error).split())))


def _project(client: LabelStudioClient, project: int, record: Json) -> str:
    record.update(client.project(project))
    if not record["task_number"]:
        raise InputError(f"{record['title']!r} has no tasks; make some with `calico project groups` and import them")
    return f"{record['title']!r}, {record['task_number']} tasks"


def _labels(label_config: str) -> str:
    config = read_config(label_config)
    size = f"{config.num_images} images" if config.num_images else "groups of any size"
    names = ", ".join(label.value for label in config.labels) or "each task's own"
    return f"layout {config.layout}, {size}, {config.vocabulary} vocabulary, labels: {names}"


def _connection(project: int, registered: Json | None) -> str:
    if registered is None:
        raise InputError(f"project {project} has no backend; add one in its settings under Model")
    if registered["state"] != "CO":
        reason = registered.get("error_message") or "it gives no reason"
        raise HostError(f"the host calls the backend {registered['readable_state']}: {reason}; validate it under Model")
    return f"{without_secret(registered['url'])} is connected"


def _host_reaches(client: LabelStudioClient, registered: Json) -> str:
    try:
        answer = client.decoded(client.request("GET", f"api/ml/{registered['id']}/versions"))
    except HostError as error:
        remedy = BLOCKED if "reserved network" in str(error) else "is its address right as seen from the host?"
        raise HostError(f"{remedy} ({error})") from None
    return f"the host gets its versions: {', '.join(map(str, answer.get('versions', []))) or 'none'}"


def _address_block(client: LabelStudioClient, registered: Json, url: str) -> str:
    parts = urlsplit(url)
    try:
        addresses = resolve(parts.hostname or "", parts.port or 80)
    except InputError:
        return f"{parts.hostname} is a name that only the host knows; see host > backend"
    if all(map(is_public, addresses)):
        return f"{parts.hostname} is a public address"
    try:
        _host_reaches(client, registered)
    except HostError as error:
        if BLOCKED in str(error):
            raise HostError(BLOCKED) from None
        return f"{parts.hostname} is private; see host > backend"
    return f"{parts.hostname} is private, and the host lets it through"


def _webhook(client: LabelStudioClient, project: int, url: str) -> str:
    hooks = [hook for hook in client.webhooks(project) if hook["url"].rstrip("/") == f"{url}/webhook"]
    if not hooks:
        raise HostError(f"the project has none for this backend, so no annotation reaches it; where {BLOCKED}")
    if not any(hook["is_active"] for hook in hooks):
        raise HostError("it is switched off; switch it on in the project's settings under Webhooks")
    return "present and active"


def _health(backend: BackendClient) -> str:
    health = backend.health()
    if health.get("model") == "failed":
        raise BackendError(
            f"{backend.public_address}: its model did not load: {health.get('error')}; see CALICO_CHECKPOINT"
        )
    return f"{backend.public_address}, model {health.get('model')}"


def _versions(client: LabelStudioClient, project: int, backend: BackendClient) -> str:
    stored, version = client.model_versions(project), backend.version()
    others = ", ".join(f"{count} of {name}" for name, count in stored.items() if name != version)
    return f"{stored.get(version, 0)} predictions of {version}" + (f"; others: {others}" if others else "")


def _knows(backend: BackendClient) -> Check:
    part_names = backend.health().get("knows")
    detail = (
        str(part_names) if part_names else "its model card does not say; on other objects its proposals are guesses"
    )
    return Check("it knows", True, detail)


def _slow_submit(rows: list[Json]) -> Check | None:
    """The editor encodes every brush mask again when it submits, at the image's own size (docs/measurements.md)."""
    sizes = [(row.get("original_width"), row.get("original_height")) for row in rows if _is_brush(row)]
    areas = [width * height / 1e6 for width, height in sizes if isinstance(width, int) and isinstance(height, int)]
    seconds = SUBMIT_S_PER_MEGAPIXEL * sum(areas)
    if not areas or seconds < SLOW_SUBMIT_S:
        return None
    detail = (
        f"{len(areas)} brush masks of up to {max(areas):.1f} megapixels: Submit takes about {seconds:.0f} s in a "
        "browser; show reduced copies (`calico project groups --max-side 2048`), or use bitmasks (`calico project "
        "config --geometry bitmask`)"
    )
    return Check("large images", True, detail, is_warning=True)


def _is_brush(row: Json) -> bool:
    return isinstance(row.get("value"), dict) and "rle" in row["value"]


def _real_task(
    client: LabelStudioClient,
    task: Json,
    label_config: str,
    settings: Settings,
    backend: BackendClient | None,
    rows: list[Json],
) -> str:
    """The backend's own way through media, model and labels; without a backend, this machine's to the media.

    rows: is given those of the prediction.
    """
    if backend is not None:
        request = {"id": task["id"], "data": task["data"]}
        [result] = backend.predict([request], label_config, task["project"])
        if result:
            rows += result["result"]
            region_ids = {row["id"] for row in result["result"] if row["type"] != "relation"}
            return f"task {task['id']}: {len(region_ids)} regions predicted"
        job = backend.job(task["id"])
        if job.get("state") == "failed":
            raise BackendError(f"task {task['id']}: {job['reason']}")
        raise BackendError(f"task {task['id']}: not ready within the time budget ({job.get('state')}); try again")
    media = Media(settings, Metrics(), client)
    addresses = task_images(read_config(label_config), task["data"])
    shapes = [media.load(address, task=task["id"]).shape for address in addresses]
    return f"task {task['id']}: images of " + ", ".join(f"{width} x {height}" for height, width, _ in shapes)


def _gpu(settings: Settings) -> str:
    import torch

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"CALICO_DEVICE={device}, but torch {torch.__version__} sees no GPU; install a CUDA build")
        return f"{torch.cuda.get_device_name(device)} (of this machine)"
    return f"{device} is used (of this machine); a GPU makes large projects faster"
