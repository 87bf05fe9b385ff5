"""The Label Studio API, as far as this backend and its commands need it: one method per thing asked of the host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from backend.host.connection import HostConnection, HostError
from backend.host.filters import task_filter
from backend.settings import Settings
from calico.errors import InputError

__all__ = ["HostError", "LabelStudioClient"]

Json = dict[str, Any]

UNREADABLE_COLUMNS = ("data.parts", "data.originals")  # of the data manager: lists for programs
BATCH_TIMEOUT_S = 150.0  # the host gives a backend 100 s, and stores the answers after that


class LabelStudioClient(HostConnection):
    """The host's projects, tasks, predictions, annotations and backends. Every method may raise HostError."""

    def _call(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
        return self.decoded(self.request(method, path, json=body, timeout_s=timeout_s))

    def _get(self, path: str, **params: Any) -> Any:
        return self.decoded(self.request("GET", path, params=params))

    # -- host -------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Label Studio's release, such as `1.23.2`."""
        return str(self._get("api/version/").get("release", "unknown"))

    def whoami(self) -> Json:
        return self._get("api/current-user/whoami")

    # -- projects ---------------------------------------------------------------------------------------------------

    def projects(self) -> Iterator[Json]:
        page = 1
        while True:
            answer = self._get("api/projects/", page=page, page_size=100)
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def project(self, project: int) -> Json:
        return self._get(f"api/projects/{project}/")

    def create_project(self, title: str, label_config: str, **options: Any) -> Json:
        return self._call("POST", "api/projects/", {"title": title, "label_config": label_config, **options})

    def update_project(self, project: int, **fields: Any) -> Json:
        return self._call("PATCH", f"api/projects/{project}/", fields)

    def delete_project(self, project: int) -> None:
        self.request("DELETE", f"api/projects/{project}/", timeout_s=BATCH_TIMEOUT_S)

    def model_versions(self, project: int) -> dict[str, int]:
        """Stored predictions counted by model version."""
        counted = self._get(f"api/projects/{project}/model-versions/")
        return {version: count for version, count in counted.items() if count}  # connected backends are listed with 0

    # -- tasks ------------------------------------------------------------------------------------------------------

    def import_tasks(self, project: int, tasks: Sequence[Json]) -> list[int]:
        """Ids of the new tasks, in the order given. tasks: each {"data": {...}}, or the data alone."""
        answer = self._call(
            "POST", f"api/projects/{project}/import?return_task_ids=true", list(tasks), timeout_s=BATCH_TIMEOUT_S
        )
        return [int(task) for task in answer["task_ids"]]

    def tasks(
        self, project: int, *, page_size: int = 100, full: bool = False, after: int = 0, filters: Sequence[Json] = ()
    ) -> Iterator[Json]:
        """All tasks by ascending id, a page in memory at a time.

        full: with their annotations, predictions and drafts. after: only ids above it. filters: items of the data
        manager's filter, all of which must hold. Pages go by id and not by number: tasks that are deleted meanwhile
        shift nothing.
        """
        while True:
            above = task_filter("id", "greater", "Number", after)
            query = {"filters": {"conjunction": "and", "items": [above, *filters]}, "ordering": ["tasks:id"]}
            params: Json = {"project": project, "page": 1, "page_size": page_size, "resolve_uri": "false"}
            if full:
                params["fields"] = "all"
            page = self._get("api/tasks/", query=json.dumps(query), **params)["tasks"]
            yield from page
            if len(page) < page_size:
                return
            after = int(page[-1]["id"])

    def num_tasks(self, project: int) -> int:
        return int(self.project(project)["task_number"])

    def task(self, task: int) -> Json:
        """One task with its annotations, predictions and drafts."""
        return self._get(f"api/tasks/{task}/", resolve_uri="false")

    def update_task(self, task: int, data: Json) -> Json:
        """Puts `data` in the place of the task's; its annotations and predictions stay."""
        return self._call("PATCH", f"api/tasks/{task}/", {"data": data})

    # -- the data manager's tabs --------------------------------------------------------------------------------------

    def show_tab(self, project: int, title: str, *, ordering: Sequence[str], filters: Sequence[Json]) -> Json:
        """A tab of that title with the tasks that all filters take, so ordered: the one that is there, or a new one.

        A project that nobody has opened has no tab; it then gets the usual one too, which the host would not make
        beside ours.
        """
        items: Json = {"conjunction": "and", "items": list(filters)}
        data: Json = {"ordering": list(ordering), "filters": items}
        self.make_usual_tab(project)
        tabs = self._get("api/dm/views/", project=project)
        mine = next((tab for tab in tabs if (tab.get("data") or {}).get("title") == title), None)
        if mine is None:
            data = {**self._tab(project, title), **data}
            return self._call("POST", "api/dm/views/", {"project": project, "data": data})
        return self._call("PATCH", f"api/dm/views/{mine['id']}/", {"data": {**mine["data"], **data}})

    def make_usual_tab(self, project: int) -> None:
        """The tab that the host itself makes when a project is first opened, without the columns that nobody can read;
        where there is one already, it stays as people have set it."""
        if not self._get("api/dm/views/", project=project):
            self._call("POST", "api/dm/views/", {"project": project, "data": self._tab(project, "Default")})

    def _tab(self, project: int, title: str) -> Json:
        hidden: dict[str, list[str]] = {"explore": [], "labeling": []}
        for column in self._get("api/dm/columns/", project=project)["columns"]:
            name = ".".join(filter(None, (column.get("parent"), column["id"])))
            for place, names in hidden.items():
                if name in UNREADABLE_COLUMNS or not (column.get("visibility_defaults") or {}).get(place, True):
                    names.append(f"tasks:{name}")
        return {"title": title, "type": "list", "target": "tasks", "hiddenColumns": hidden}

    # -- predictions and annotations --------------------------------------------------------------------------------

    def predictions(self, *, task: int | None = None, project: int | None = None) -> list[Json]:
        """Of one task, or of a project (all at once: large for large projects)."""
        if (task is None) == (project is None):
            raise TypeError("predictions() takes a task or a project")
        return self._get("api/predictions/", **({"task": task} if task is not None else {"project": project}))

    def create_prediction(
        self, task: int, result: Sequence[Json], *, model_version: str, score: float | None = None
    ) -> Json:
        body = {"task": task, "result": list(result), "model_version": model_version, "score": score}
        return self._call("POST", "api/predictions/", body)

    def update_prediction(self, prediction: int, **fields: Any) -> Json:
        return self._call("PATCH", f"api/predictions/{prediction}/", fields)

    def delete_prediction(self, prediction: int) -> None:
        self.request("DELETE", f"api/predictions/{prediction}/")

    def delete_predictions(self, project: int, *, model_version: str) -> int:
        """All of one model version in a project. Returns how many there were."""
        num_stored = self.model_versions(project).get(model_version, 0)
        if num_stored:
            path = f"api/projects/{project}/model-versions/"
            self.request("DELETE", path, json={"model_version": model_version}, timeout_s=BATCH_TIMEOUT_S)
        return num_stored

    def annotations(self, task: int) -> list[Json]:
        return self._get(f"api/tasks/{task}/annotations/")

    # -- machine learning backends ----------------------------------------------------------------------------------

    def backends(self, project: int) -> list[Json]:
        return self._get("api/ml/", project=project)

    def webhooks(self, project: int) -> list[Json]:
        return self._get("api/webhooks/", project=project)

    def connect_backend(self, project: int, url: str, *, title: str = "CALICO", **options: Any) -> Json:
        """Makes `url` the project's one backend of that address, and proves that its webhook exists.

        options: `is_interactive`, `auth_method`, `basic_auth_user`, `basic_auth_pass`, `timeout`.
        Without the webhook the backend would look connected, and annotations would never reach it.
        """
        url = url.rstrip("/")
        body = {"project": project, "url": url, "title": title, **options}
        present = next((item for item in self.backends(project) if item["url"].rstrip("/") == url), None)
        try:
            if present is None:
                present = self._call("POST", "api/ml/", body)
            else:
                present = self._call("PATCH", f"api/ml/{present['id']}", body)
        except HostError as error:
            if error.status in (400, 403) and "reserved network" in str(error):
                raise HostError(
                    f"{self.url}: refuses backends on private addresses such as {url}; start Label Studio with "
                    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false",
                    error.status,
                ) from None
            raise
        if not any(hook["url"].rstrip("/") == f"{url}/webhook" for hook in self.webhooks(project)):
            raise HostError(
                f"{self.url}: backend {url} is connected to project {project} but has no webhook, so annotations would "
                "not reach it; start Label Studio with LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false and connect again"
            )
        return present

    def disconnect_backend(self, backend: int) -> None:
        """Removes the backend and, since the host leaves it behind, its webhook."""
        connection = self._get(f"api/ml/{backend}")
        self.request("DELETE", f"api/ml/{backend}")
        for hook in self.webhooks(connection["project"]):
            if hook["url"].rstrip("/") == connection["url"].rstrip("/") + "/webhook":
                self.request("DELETE", f"api/webhooks/{hook['id']}/")

    def start_training(self, backend: int) -> None:
        """As the button "Start training" does: the host sends START_TRAINING to the backend's webhook."""
        self._call("POST", f"api/ml/{backend}/train", {})

    def retrieve_predictions(self, project: int, tasks: Sequence[int] | None = None) -> None:
        """The data manager's "Batch predictions": the host asks the backend about these tasks (all, if None) in one
        request and stores the answers. Its reply says nothing true about how many: count the stored predictions.
        """
        chosen = {"all": True, "excluded": []} if tasks is None else {"all": False, "included": list(tasks)}
        path = f"api/dm/actions?id=retrieve_tasks_predictions&project={project}"
        self._call("POST", path, {"selectedItems": chosen}, timeout_s=BATCH_TIMEOUT_S)

    # -- storages ---------------------------------------------------------------------------------------------------

    def add_local_files(self, project: int, path: str, *, title: str = "local files") -> Json:
        """Lets the project show files below `path`, a sub-folder of the host's document root."""
        body = {"project": project, "path": path, "title": title, "use_blob_urls": True, "regex_filter": ".*"}
        return self._call("POST", "api/storages/localfiles/", body)


def client_of(settings: Settings) -> LabelStudioClient:
    """Raises InputError where the settings name no host or no token."""
    if not settings.label_studio_url or not settings.label_studio_api_key:
        raise InputError(
            "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to the host's address and a token of it, or run `make demo`"
        )
    return LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
