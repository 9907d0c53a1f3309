"""What was accepted since the served version, as pages and Label Studio show it."""

import json
import threading

import pytest

from backend.errors import LabelStudioError
from backend.jobs.automatic import stamp
from backend.jobs.outlook import FRESH_SECONDS, Outlooks
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import write_checkpoint
from tests.backend.jobs.conftest import POLYGONS, TRIANGLE, png

HALF = {**TRIANGLE, "value": {**TRIANGLE["value"], "points": [[0, 0], [50, 0], [50, 100], [0, 100]]}}


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def make(connections, registry, now):
    def outlooks(served=lambda project, classes: None, client=connections.client):
        return Outlooks(client, registry, served, needed=4, now=lambda: now[0])

    return outlooks


def accept(label_studio: FakeLabelStudio, project: int, count: int, drawn=None, accepted=TRIANGLE):
    for _ in range(count):
        task = label_studio.add_upload(project, f"{len(label_studio.tasks)}.png", png())
        parent = None
        if drawn is not None:
            parent = label_studio.add_prediction({"task": task, "result": [drawn], "model_version": "v", "score": 0.5})
        label_studio.add_annotation(task, [accepted], parent_prediction=parent)


def test_a_project_nobody_has_trained_for_is_told_so_with_its_count(make, label_studio):
    project = label_studio.add_project(POLYGONS)
    accept(label_studio, project, 3)
    found = make().of(str(project), wait=20)
    assert found.sentence == "No model knows these classes yet: 3 of 4 needed tasks accepted"


def test_with_enough_tasks_it_says_what_to_do(make, label_studio):
    project = label_studio.add_project(POLYGONS)
    accept(label_studio, project, 5)
    assert make().of(str(project), wait=20).sentence.endswith("5 tasks accepted, enough to press Start Training")


def test_a_version_that_waits_to_be_promoted_is_named_and_no_other_training_advised(
    make, label_studio, registry, tmp_path
):
    """A candidate, or the first version after it was rolled back."""
    project = str(label_studio.add_project(POLYGONS, "Leaves"))
    accept(label_studio, int(project), 5)
    version = registry.reserve(project)
    registry.publish(project, write_checkpoint(tmp_path / version, version))
    outlooks = make()
    waits = f"No version is served: {version} waits to be promoted; 5 tasks accepted"
    assert (outlooks.of(project, wait=20).sentence, outlooks.of(project).title) == (waits, "Leaves")
    registry.promote(project, version)
    registry.rollback(project)
    outlooks.forget(project)
    assert outlooks.of(project, wait=20).sentence == waits


def test_what_came_since_the_served_version_is_counted_by_class_and_correction(make, label_studio, registry, tmp_path):
    project = str(label_studio.add_project(POLYGONS))
    accept(label_studio, int(project), 2)
    version = registry.reserve(project)
    learnt = {str(a["task"]): stamp([a["id"]]) for a in label_studio.annotations.values()}
    (write_checkpoint(tmp_path / version, version) / "accepted.json").write_text(json.dumps(learnt))
    registry.publish(project, tmp_path / version)
    registry.promote(project, version)
    accept(label_studio, int(project), 1, drawn=TRIANGLE)
    accept(label_studio, int(project), 2, drawn=HALF)
    found = make(lambda project, classes: version).of(project, wait=20)
    assert (found.accepted, found.new, found.looked, found.corrected) == (5, 3, 3, 2)
    assert found.classes == {"Lumen": 3, "Fibrous cap": 0}
    assert found.sentence == f"3 tasks accepted since {version} learnt"


def test_a_starter_that_knows_a_class_is_named(make, label_studio):
    project = label_studio.add_project(POLYGONS)
    accept(label_studio, project, 1)
    assert make(lambda project, classes: "oct-lite0").of(str(project), wait=20).sentence.startswith("oct-lite0 draws")


def test_a_page_waits_only_a_moment_and_asks_again_when_the_answer_is_old(make, label_studio, connections, now):
    project = str(label_studio.add_project(POLYGONS))
    gate, asked = threading.Event(), []

    def client(of):
        asked.append(of)
        assert gate.wait(20)
        return connections.client(of)

    outlooks = make(client=client)
    assert outlooks.of(project, wait=0.01) is None
    assert outlooks.of(project, wait=0.01) is None
    gate.set()
    assert outlooks.of(project, wait=20).accepted == 0
    assert len(asked) == 1
    outlooks.of(project)
    assert len(asked) == 1
    now[0] += FRESH_SECONDS + 1
    gate.clear()
    assert outlooks.of(project, wait=0.01).accepted == 0  # what was known, while it is asked again
    gate.set()
    outlooks.forget(project)
    outlooks.of(project, wait=20)
    assert len(asked) >= 2


def test_who_opens_a_page_after_a_while_sees_what_was_accepted_since(make, label_studio, now):
    project = label_studio.add_project(POLYGONS)
    outlooks = make()
    assert outlooks.of(str(project), wait=20).accepted == 0
    accept(label_studio, project, 2)
    now[0] += FRESH_SECONDS + 1
    assert outlooks.of(str(project), wait=20).accepted == 2


def test_a_config_that_cannot_be_filled_is_no_silence_of_label_studio(make, label_studio):
    project = label_studio.add_project("<View><Image name='image' value='$image'/></View>")
    said = make().of(str(project), wait=20).sentence
    assert said.startswith("The labelling config offers nothing that this backend can fill")


def test_a_label_studio_that_is_away_is_named(make):
    def client(project):
        raise LabelStudioError("it does not answer")

    assert "it does not answer" in make(client=client).of("1", wait=20).sentence
