"""The demo: a real Label Studio and this backend on one machine, with projects of drawn groups, pre-annotated.

All it makes is below one folder:

    label-studio-venv/   Label Studio in its own environment
    data/                Label Studio's database and the drawn images
    backend/             the backend's inbox, media cache and training jobs
    registry/            versions that "Start training" made
    account.json         user, password, token and webhook secret, made once (mode 600)
    state.json           what runs now; there only while the demo is ready (mode 600)
    running.json         process ids, locked by the demo that runs
    *.log
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from backend.codecs.config_writer import PARTS, write_config
from backend.codecs.parts import unknown_parts
from backend.demo.label_studio import LABEL_STUDIO_VERSION, Account, LabelStudioHost, install, is_installed
from backend.demo.processes import ChildProcess, ProcessError, SingleInstance, free_port
from backend.demo.state import STATE, State
from backend.host.client import HostError, LabelStudioClient
from calico.errors import InputError
from calico.files import write_text

ROOT = Path(__file__).resolve().parents[2]
BACKEND_TITLE = "CALICO"
INSTRUCTION = (
    "One colour is one part, the same on every image: the names above the images say which. Correct masks and names, "
    "add what is missing, then submit. Smart tools: switch on Auto-Annotation; where a mask lies, click with Ctrl."
)
LATE_TIMEOUT_S = 180.0  # for groups that the backend goes on with after its time budget

Note = Callable[[str], None]
Step = Callable[[str], AbstractContextManager[Note]]
"""A step to report: a context manager around the work, giving a function that says how far it is."""


@dataclass(frozen=True)
class DemoProject:
    """groups: of each what its images show, group_size of them: classes to draw or, where not is_drawn, files below
    `examples/`. Label Studio's images lie under `files/<folder>`."""

    folder: str
    title: str
    description: str
    groups: tuple[tuple[str, ...], ...]
    is_drawn: bool = True

    @property
    def group_size(self) -> int:
        return len(self.groups[0])

    @property
    def num_groups(self) -> int:
        return len(self.groups)


#: Pairs that share parts, and at the end two things that have little in common.
PAIRS = (
    ("chair", "stool"), ("mug", "teapot"), ("car", "truck"), ("bird", "airplane"), ("lamp", "lamp"),
    ("dog", "bird"), ("table", "chair"), ("bicycle", "car"), ("knife", "teapot"),
)  # fmt: skip
TRIPLES = (
    ("bird", "bird", "bird"), ("chair", "stool", "table"), ("car", "truck", "bicycle"), ("mug", "teapot", "lamp"),
)  # fmt: skip
#: Path-traced (examples/renders): things that the embedded model knows, then one that it has to be taught.
RENDERS = tuple(
    tuple(f"renders/{name}.jpg" for name in names)
    for names in (
        ("lamp-1", "lamp-2"), ("bench-1", "bench-2"), ("stool-1", "stool-2"), ("stool-3", "lamp-3"),
        ("wheelbarrow-1", "wheelbarrow-2"), ("wheelbarrow-3", "wheelbarrow-4"), ("wheelbarrow-5", "wheelbarrow-6"),
        ("wheelbarrow-7", "wheelbarrow-8"),
    )
)  # fmt: skip
DRAWN = "Groups of drawn objects, pre-annotated by CALICO"
RENDERED = (
    "Rendered like photographs. CALICO does not know wheelbarrows: mask and name their parts in one group after the "
    "other, submit each, and the groups that you open then show what you taught."
)
PROJECTS = (
    DemoProject("pairs", "Drawn pairs", DRAWN, PAIRS),
    DemoProject("triples", "Drawn triples", DRAWN, TRIPLES),
    DemoProject("renders", "Photo-like pairs", RENDERED, RENDERS, is_drawn=False),
)

Groups = Callable[[DemoProject], Sequence[Sequence[np.ndarray]]]
"""The images of a project's groups, HxWx3 uint8, always the same ones."""


class Demo:
    """One demo below `folder`. step: reports progress. groups: draws the images."""

    backend_command = (sys.executable, "-m", "backend")

    def __init__(self, folder: Path, *, step: Step, groups: Groups, projects: Sequence[DemoProject] = PROJECTS) -> None:
        self.folder = folder.resolve()
        self.step = step
        self.groups = groups
        self.projects = projects
        self.children: list[ChildProcess] = []

    # -- Label Studio's environment -----------------------------------------------------------------------------------

    @property
    def executable(self) -> Path:
        """`label-studio`: of CALICO_LABEL_STUDIO where that is set, else of the demo's own environment."""
        chosen = os.environ.get("CALICO_LABEL_STUDIO")
        if chosen and not Path(chosen).is_file():
            raise InputError(f"CALICO_LABEL_STUDIO={chosen}: no such file; expected a `label-studio` executable")
        return Path(chosen).absolute() if chosen else self.folder / "label-studio-venv" / "bin" / "label-studio"

    def install(self) -> None:
        """Label Studio, where it is not there yet."""
        venv = self.folder / "label-studio-venv"
        if os.environ.get("CALICO_LABEL_STUDIO") or is_installed(venv):
            return
        with self.step(f"Installing Label Studio {LABEL_STUDIO_VERSION} by itself (1 GB, some minutes)") as note:
            install(venv, self.folder / "install.log", note)

    # -- running ------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, *, port: int = 8080, backend_port: int = 9090) -> Iterator[State]:
        """Installs what is missing, starts both servers, fills the projects; stops both in the end.

        port, backend_port: where to listen, or the next free ports above.
        """
        with self._instance() as instance:
            self.install()
            account, secret = self._account()
            port, backend_port = self._free(port, "Label Studio"), self._free(backend_port, "the backend")
            log = self.folder / "label-studio.log"
            host = LabelStudioHost(self.folder / "data", self.executable, account=account, port=port, log=log)
            backend_url = f"http://127.0.0.1:{backend_port}/k/{secret}"
            try:
                new = not (host.data_dir / "label_studio.sqlite3").exists()
                where = f"Starting Label Studio on port {port} and the backend on port {backend_port}"
                with self.step(where) as note:
                    self.children.append(host.launch())
                    self.children.append(backend := self._start_backend(backend_port, host.url, account, secret))
                    instance.remember(self.children)
                    host.wait(on_wait=lambda waited: note("making its database" if new else "waiting"))
                    note("loading the model")
                    backend.wait_until_ready(f"{backend_url}/health", timeout_s=120, ready=_model_is_ready)
                state = State(host.url, account.user, account.password, account.token, backend_url)
                with LabelStudioClient(host.url, account.token) as client:
                    state.project_ids = [self._fill(client, host, project, backend_url) for project in self.projects]
                write_text(self.folder / STATE, json.dumps(asdict(state), indent=2) + "\n", is_private=True)
                yield state
            finally:
                (self.folder / STATE).unlink(missing_ok=True)
                self.stop_children()

    def check_alive(self) -> None:
        """Raises ProcessError if a server has ended."""
        for child in self.children:
            if not child.running:
                raise ProcessError(f"{child.name} has ended: {child.last_line()} (see {child.log})")

    def stop_children(self) -> None:
        while self.children:
            self.children.pop().stop()

    def _free(self, preferred: int, who: str) -> int:
        port = free_port(preferred)
        if port != preferred:
            with self.step(f"Port {preferred} is taken by another program: {who} takes {port}"):
                pass
        return port

    def _account(self) -> tuple[Account, str]:
        path = self.folder / "account.json"
        if not path.exists():
            if (self.folder / "data").exists():
                raise InputError(f"{path} is gone, but not {self.folder / 'data'}; `make demo-clean` removes both")
            account = asdict(Account()) | {"webhook_secret": secrets.token_urlsafe(24)}
            write_text(path, json.dumps(account, indent=2) + "\n", is_private=True)
        content = json.loads(path.read_text())
        secret = content.pop("webhook_secret")
        return Account(**content), secret

    def _start_backend(self, port: int, host_url: str, account: Account, secret: str) -> ChildProcess:
        foreign = ("LABEL_STUDIO_", "DATABASE_URL", "CALICO_BASIC_AUTH_", "CALICO_LABEL_STUDIO")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        env |= {
            "CALICO_HOST": "127.0.0.1",
            "CALICO_PORT": str(port),
            "CALICO_DATA_DIR": str(self.folder / "backend"),
            "CALICO_VERSIONS": str(self.folder / "registry"),
            "CALICO_WEBHOOK_SECRET": secret,
            "LABEL_STUDIO_URL": host_url,
            "LABEL_STUDIO_API_KEY": account.token,
        }
        log = self.folder / "backend.log"
        backend = ChildProcess("The backend", self.backend_command, log=log, env=env, cwd=ROOT)
        backend.start()
        return backend

    # -- projects -----------------------------------------------------------------------------------------------------

    def _fill(self, client: LabelStudioClient, host: LabelStudioHost, project: DemoProject, backend_url: str) -> int:
        """The project's id, after its tasks, its backend and their predictions are there."""
        entry = next((item for item in client.projects() if item["title"] == project.title), None)
        if entry is None or client.num_tasks(entry["id"]) < project.num_groups:
            if entry is not None:
                client.delete_project(entry["id"])  # left half made by an interrupted start
            entry = self._make(client, host, project)
        number = int(entry["id"])
        with self.step(f"{project.title}: connecting the backend"):
            for other in client.backends(number):
                if other["title"] == BACKEND_TITLE and other["url"].rstrip("/") != backend_url:
                    client.disconnect_backend(other["id"])  # of a start on other ports
            client.connect_backend(number, backend_url, title=BACKEND_TITLE, is_interactive=True)
        versions = httpx.get(f"{backend_url}/versions", timeout=30, trust_env=False).json()
        self._predict(client, number, project, versions["versions"][0])
        return number

    def _make(self, client: LabelStudioClient, host: LabelStudioHost, project: DemoProject) -> dict[str, Any]:
        with self.step(f"{project.title}: {project.num_groups} groups of {project.group_size} images") as note:
            note("drawing" if project.is_drawn else "copying the pictures")
            folder = host.files_dir / project.folder
            tasks = []
            for g, group in enumerate(self.groups(project), start=1):
                data: dict[str, Any] = {"title": title_of(project.groups[g - 1]), PARTS: unknown_parts()}
                for i, image in enumerate(group, start=1):
                    path = folder / f"{g:02d}" / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
                    data[f"image{i}"] = f"/data/local-files/?d={path.relative_to(host.files_dir).as_posix()}"
                tasks.append({"data": data})
            note("making the project")
            project_row = client.create_project(
                project.title,
                write_config(project.group_size, layout="A"),
                description=project.description,
                expert_instruction=INSTRUCTION,
                show_collab_predictions=True,
            )
            client.add_local_files(project_row["id"], str(folder), title=project.title)
            client.import_tasks(project_row["id"], tasks)
            client.make_usual_tab(project_row["id"])
        return project_row

    def _predict(self, client: LabelStudioClient, number: int, project: DemoProject, version: str) -> None:
        """Has the host ask the backend, as its button "Batch predictions" does, and counts what it stored."""

        def num_missing() -> int:
            stored = client.model_versions(number).items()  # with a part memory: `VERSION+3 groups`
            return total - sum(n for name, n in stored if name == version or name.startswith(f"{version}+"))

        tasks = [int(task["id"]) for task in client.tasks(number)]
        total = len(tasks)
        num_strange = 0 if project.is_drawn else total  # which may show nothing, and then have no prediction
        if num_missing() > 0:
            with self.step(f"{project.title}: CALICO segments {total} groups") as note:
                for start in range(0, total, 2):  # the host leaves out tasks that have a prediction of this version
                    note(f"{total - num_missing()} of {total} groups")
                    self.check_alive()
                    client.retrieve_predictions(number, tasks[start : start + 2])
                deadline = time.monotonic() + LATE_TIMEOUT_S
                while num_missing() > num_strange and time.monotonic() < deadline:
                    note(f"{total - num_missing()} of {total} groups; the backend goes on with the rest")
                    self.check_alive()
                    time.sleep(1)
                if num_missing() > num_strange:
                    raise HostError(
                        f"{project.title}: {num_missing()} of {total} groups got no prediction; the reasons are in "
                        f"{self.folder / 'backend.log'}"
                    )
        if client.project(number)["num_tasks_with_annotations"]:
            return  # removing what an annotation started from would make the host forget it
        for stale in client.model_versions(number).keys() - {version}:  # of another checkpoint
            client.delete_predictions(number, model_version=stale)

    # -- from another process -----------------------------------------------------------------------------------------

    def _instance(self) -> SingleInstance:
        path = self.folder / "running.json"
        return SingleInstance(path, f"a demo runs already, see {self.folder}/state.json; `make demo-stop` ends it")

    def stop(self) -> bool:
        """Ends the demo that runs below the folder. Whether there was one."""
        return self._instance().stop_other()

    def clean(self) -> None:
        """Stops it and removes the folder with all that the demo made."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def title_of(names: Sequence[str]) -> str:
    """`chair and stool`, `3 birds`. names: classes, or files `folder/class-number.jpg`."""
    names = [Path(name).stem.rstrip("-0123456789") for name in names]
    if len(set(names)) == 1:
        return f"{len(names)} {names[0]}s"
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _model_is_ready(health: httpx.Response) -> bool:
    """From the backend's `/health`. Raises ProcessError with the reason once loading has failed."""
    said = health.json()
    if said.get("model") == "failed":
        raise ProcessError(f"The backend cannot load the model: {said.get('error')}")
    return bool(said.get("model") == "ready")
