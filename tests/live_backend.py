"""The real backend over HTTP, mostly with a fake segmenter, and projects of it in a real Label Studio."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from werkzeug.serving import make_server

from backend.codecs.parts import unknown_parts
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import LabelStudioClient
from backend.http.app import create_app
from backend.prediction.engine import Segmenter
from backend.services import start_watch
from backend.settings import Settings

SECRET = "a-secret-of-the-tests"


class LiveBackend:
    """Serves on a port of its own. A context manager; `url` is what a project registers.

    segmenter: None for the real model. more: settings.
    """

    def __init__(
        self, host: LabelStudioHost, folder: Path, segmenter: Segmenter | None, *, token: str | None = None, **more: Any
    ) -> None:
        settings = Settings(
            webhook_secret=SECRET,
            label_studio_url=host.url,
            label_studio_api_key=token or host.account.token,
            data_dir=folder,
            **more,
        )
        self.app = create_app(settings, load=None if segmenter is None else lambda: segmenter)
        self.services: Any = self.app.extensions["calico"]
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/k/{SECRET}"

    def __enter__(self) -> LiveBackend:
        self._thread.start()
        self._ended = threading.Event()
        self._watch = start_watch(self.services, self._ended)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._ended.set()
        self._watch.join()
        if self.services.memories is not None:
            self.services.memories.close()
        self.services.inbox.close()
        self.services.client.close()


def annotate(client: LabelStudioClient, task: int, result: Sequence[Any], **fields: Any) -> Any:
    """An annotator's Submit; the annotation it makes. No command of ours annotates, so the client has no method."""
    body = {"result": list(result), **fields}
    return client.decoded(client.request("POST", f"api/tasks/{task}/annotations/", json=body))


def make_project(
    client: LabelStudioClient,
    host: LabelStudioHost,
    title: str,
    label_config: str,
    groups: Sequence[Sequence[np.ndarray]],
    **options: Any,
) -> tuple[int, list[int]]:
    """A project whose tasks show the groups from local files: its id and theirs.

    Task data has `image1`, `image2`, ... where the config asks for them, else one list `images`.
    """
    folder = host.files_dir / title.replace(" ", "-")
    tasks = []
    for g, group in enumerate(groups):
        addresses = []
        for i, image in enumerate(group):
            path = folder / f"{g}-{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            addresses.append(f"/data/local-files/?d={path.relative_to(host.files_dir).as_posix()}")
        data: Mapping[str, Any] = {f"image{i}": address for i, address in enumerate(addresses, 1)}
        labels = {"parts": unknown_parts()} if "$parts" in label_config else {}
        tasks.append({"data": {**({"images": addresses} if "$images" in label_config else data), **labels}})
    project = client.create_project(title, label_config, **options)["id"]
    client.add_local_files(project, str(folder))
    return project, client.import_tasks(project, tasks)
