from __future__ import annotations

import numpy as np
import pytest
from backend_fakes import PAIR_XML, FakeSegmenter, pair_task, picture

from backend.app import create_app
from backend.codecs import brush_rle
from backend.settings import Settings


@pytest.fixture
def make(tmp_path):
    """An app over a fake segmenter, and its test client."""

    def make(segmenter=None, *, load=None, client=None, **settings):
        values = {"media_roots": (tmp_path,), "data_dir": tmp_path / "state", **settings}
        app = create_app(Settings(**values), load=load or (lambda: segmenter or FakeSegmenter()), client=client)
        app.testing = False
        return app.test_client()

    return make


def predict(http, tasks, xml=PAIR_XML, context=None, path="/predict", **arguments):
    body = {"tasks": tasks, "project": "1.2", "label_config": xml, "params": {"context": context}}
    return http.post(path, json=body, **arguments)


def masks_of(entry):
    """{(to_name, label): mask} of a prediction."""
    return {
        (row["to_name"], row["value"]["brushlabels"][0]): brush_rle.decode(
            row["value"]["rle"], row["original_height"], row["original_width"]
        )
        for row in entry["result"]
        if row["type"] == "brushlabels"
    }


def test_health_index_versions_setup(make):
    http = make()
    assert http.get("/health").get_json()["status"] == "UP"
    assert http.get("/").status_code == 200
    setup = http.post("/setup", json={"project": "1.1", "schema": PAIR_XML, "access_token": "s3cret"})
    assert setup.get_json() == {"model_version": "fake-1"}
    assert http.get("/versions").get_json() == {"versions": ["fake-1"]}


def test_predicts_each_image_in_its_own_control(make, tmp_path):
    tasks = [pair_task(tmp_path, 1), pair_task(tmp_path, 2)]
    results = predict(make(), tasks).get_json()["results"]
    assert len(results) == 2
    for task, entry in zip(tasks, results, strict=True):
        assert entry["model_version"] == "fake-1" and 0 < entry["score"] <= 1
        masks = masks_of(entry)
        for i in (1, 2):
            expected = picture(task["id"] * 10 + i, size_hw=(24 + i, 32))[..., 1] > 127
            assert np.array_equal(masks[f"img{i}", "object"], expected)
