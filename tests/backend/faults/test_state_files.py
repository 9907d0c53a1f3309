"""Files that another release wrote, that somebody edited, or of which half is there: told, and nobody else notices."""

import copy
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import update

from backend.database.earlier import carry_over
from backend.database.tables import VERSIONS
from backend.versions.serving import Serving
from models.checkpoint import read_card
from models.errors import CheckpointError, ModelError
from tests.backend.fakes import predict_body, publish, setup_body
from tests.backend.jobs.edit import edit_job

NESTED = "[" * 100_000
WRONG = [None, "text", "", 7, -1.5, 1e400, True, [], [None], {}, {"a": None}, "\\ud800", "../../etc"]
PAGES = ["/dashboard", "/dashboard/projects/3", "/dashboard/projects/4", "/api/versions", "/versions"]
CARD = {
    "name": "p3-r001-lite0",
    "classes": ["Lumen", "Fibrous cap"],
    "backbone": "tf_efficientnet_lite0",
    "created": "2026-01-01T00:00:00+00:00",
    "parent": "oct-lite0",
    "description": "text",
    "data": {"train": 20, "held_out": 4, "fingerprint": "abc"},
    "metrics": {
        "classes": {"Lumen": {"frames": 8, "iou": 0.9, "boundary_f": 0.8, "coarse_iou": 0.7}},
        "mean_iou": 0.9,
        "frames": 8,
    },
    "config": {"classifier": {}, "refiner": {}, "pipeline": {}},
    "training": {"steps": 10},
    "weights": {"classifier.safetensors": "0" * 64},
    "gallery": [
        {
            "name": "task-4",
            "end": "worst",
            "iou": 0.1,
            "frame": "1-frame.jpg",
            "classes": [
                {"class": "Lumen", "iou": 0.1, "map": "a", "trimap": "b", "boundary": "c", "mask": "d", "accepted": "e"}
            ],
        }
    ],
    "family": "cam",
}
REPORT = {
    "title": "t",
    "used": 4,
    "classes": {"Lumen": 4},
    "acceptance": {"p3-r001-lite0": {"Lumen": {"drawn": 1, "iou": 0.5, "unchanged": 0, "added": 1}}},
}
MEASURED = {"new": CARD["metrics"], "parent": CARD["metrics"], "promote": True, "verdict": "better"}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutations(whole: Any, each: int | None = None) -> Iterator[str]:
    """A document with something else in one place, something missing in one, and what is no document.

    Args:
        whole: the document.
        each: so many changes of each place, others at the next place; None for all.
    """
    yield from ("", "null", "\xff", NESTED, json.dumps(whole)[:-9])
    ways = itertools.cycle([*WRONG, KeyError])
    for path in places(whole):
        for wrong in itertools.islice(ways, each or len(WRONG) + 1):
            changed = {"whole": copy.deepcopy(whole)}
            at: Any = changed
            *steps, last = ("whole", *path)
            for step in steps:
                at = at[step]
            if wrong is KeyError:
                del at[last]
            else:
                at[last] = wrong
            if "whole" in changed:
                yield json.dumps(changed["whole"])


@pytest.fixture
def answers(client, serving):
    """Asks for everything, and fails at the first answer that is no answer."""
    asked = []

    def ask(what: str) -> None:
        for page in PAGES:
            answer = client.get(page)
            assert answer.status_code < 500 or answer.status_code == 503, (what, page, answer.text[:300])
            if page != "/dashboard/projects/3":
                assert answer.status_code == 200, (what, page, answer.text[:300])
        assert client.post("/setup", json=setup_body()).status_code == 200, what
        with client.post("/predict", json=predict_body(["1"]), buffered=True) as answer:
            assert len(answer.get_json()["results"]) == 1, what
        asked.append(what)

    yield ask
    assert asked


@pytest.fixture
def project(registry, tmp_path):
    """Project 3 with a served version, project 4 with a candidate; the folder of the served one."""
    served = registry.promote("3", publish(registry, tmp_path))
    publish(registry, tmp_path, "4")
    return served.directory


def test_a_card_of_any_shape_is_told_and_something_else_is_served(project, answers):
    card = project / "card.json"
    for text in mutations(CARD, each=5):
        card.write_text(text, encoding="latin-1")
        with suppress(CheckpointError):
            read_card(card.parent)
    for text in mutations(CARD, each=1):
        card.write_text(text, encoding="latin-1")
        answers(text[:2000])


def test_a_card_that_another_release_published_is_told_wherever_it_is_shown(project, answers, records, client):
    """Pages read it from the database."""
    for text in [*itertools.islice(mutations(CARD, each=1), 0, None, 5), "{"]:
        card = update(VERSIONS).where(VERSIONS.c.project == "3").values(card=text)
        records.change(lambda connection, card=card: connection.execute(card))
        answers(text[:2000])
    assert "does not read as a model card" in client.get("/dashboard/projects/3").text


@pytest.mark.parametrize("field", ["report", "metrics", "figures"])
def test_a_jobs_record_of_any_shape_costs_no_page(project, answers, store, field):
    job, _ = store.submit("training", "3")
    whole = {"report": REPORT, "metrics": MEASURED, "figures": {"step": 3, "loss": 0.5}}[field]
    for text in mutations(whole, each=1):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue  # no record holds what is no JSON
        if isinstance(content, dict):
            edit_job(store, job.id, state="done", version="p3-r001-lite0", **{field: content})
            answers(text[:2000])


@pytest.mark.parametrize("name", ["project-3.bak", "project-3 (copy)", "project-", "project-\u0663", "project-..", "x"])
@pytest.mark.parametrize("kind", ["copy", "file", "link", "closed"])
def test_a_foreign_folder_beside_the_projects_is_passed_over(project, answers, registry, name, kind, tmp_path):
    foreign = registry.store.folder / name
    if kind == "file":
        foreign.write_text("notes")
    elif kind == "link":
        foreign.symlink_to(tmp_path / "nowhere")
    else:
        shutil.copytree(project.parent, foreign)
        foreign.chmod(0o700 if kind == "copy" else 0)
    try:
        assert registry.projects() == ["3", "4"]
        publish(registry, tmp_path / "more", "4")
        answers(name)
        assert foreign.is_symlink() or foreign.exists()
    finally:
        if kind == "closed":
            foreign.chmod(0o700)


@pytest.mark.parametrize(
    "name", ["p3-r001-lite0.bak", "p3-r001", "p3-r999-lite0", "p3-r002-old", "p3-r001-lite0 (copy)"]
)
def test_a_copy_of_a_version_is_no_version(project, answers, registry, name):
    shutil.copytree(project, project.parent / name)
    assert registry.names("3") == ["p3-r001-lite0"]
    assert registry.reserve("3") == "p3-r002"
    answers(name)


def test_credentials_of_an_earlier_release_of_any_shape_stop_no_start(tmp_path, credentials, client, records):
    whole = {"3": {"url": "http://ls.example", "api_key": "t0ken"}, "4": {"url": "http://ls.example", "api_key": "k"}}
    for text in mutations(whole, each=3):
        (tmp_path / "credentials.json").write_text(text, encoding="latin-1")
        carry_over(records, credentials, tmp_path)
        for path in ("/dashboard", "/dashboard/projects/4"):
            assert client.get(path).status_code in (200, 404), text[:200]
        assert client.post("/setup", json=setup_body()).status_code == 200, text[:200]
        assert credentials.of("3").url == "http://ls.example"


def test_a_model_that_cannot_be_read_falls_back_in_serving_too(project, registry, starter, loader, inference):
    """Whatever the card says, a request gets the version before it or the starter, never an error."""
    serving = Serving(registry, starter, loader, inference)
    card = project / "card.json"
    for text in mutations(CARD, each=2):
        card.write_text(text, encoding="latin-1")
        resolved = serving.resolve("3", ["Lumen"])
        try:
            served = resolved.model()
        except ModelError:
            pytest.fail(text[:300])
        assert served.version in ("oct-lite0", "p3-r001-lite0")
