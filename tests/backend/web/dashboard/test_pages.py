import json
import re
import time
from html.parser import HTMLParser
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import update

from backend.database.tables import VERSIONS
from backend.jobs.outlook import Outlook
from backend.system.login import Login
from tests.backend.fakes import publish, setup_body
from tests.backend.jobs.edit import edit_job
from tests.backend.web.dashboard.conftest import Visitor

PAGES = [
    "",
    "/",
    "/projects/3",
    "/projects/3/review",
    "/projects/4",
    "/projects/5",
    "/projects/5/review",
    "/projects/6",
]
VOID = {"meta", "link", "input", "img"}


class Markup(HTMLParser):
    """Every tag with its attributes, and whether all that was opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags: list[Any] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.usefixtures("populated")
@pytest.mark.parametrize("path", PAGES)
def test_pages_are_whole_and_need_nothing_from_elsewhere(visitor, path):
    """The headers forbid scripts and styles inside a page, and everything of another host."""
    markup = Markup(visitor.read(path))
    assert [tag for tag, _ in markup.tags].count("h1") == 1
    for tag, attributes in markup.tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "style"
        if tag in ("script", "link", "img"):
            address = attributes.get("src") or attributes["href"]
            assert address.startswith("/dashboard/"), address
            assert visitor.client.get(address, buffered=True).status_code == 200
        if tag == "script":
            assert "src" in attributes
        if tag == "img":
            assert attributes["alt"]
    ids = [attributes["id"] for _, attributes in markup.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = {name for _, a in markup.tags for key in ("aria-labelledby", "popovertarget") if (name := a.get(key))}
    assert named <= set(ids)


@pytest.mark.usefixtures("populated")
def test_every_project_that_is_known_in_any_way_is_listed(visitor, registry, tmp_path):
    publish(registry, tmp_path, project="12")
    page = visitor.read()
    assert re.findall(r'/dashboard/projects/(\w+)"', page) == ["3", "4", "5", "6", "12"]
    for said in ("Coronary OCT, pullback 7", "p3-r005-lite0", "0.698", "148", "queued", "needs 4; annotate"):
        assert said in page


def test_the_list_of_many_projects_asks_once_for_what_it_can_get_at_once(client, credentials, monkeypatch):
    """A thousand of them took ten seconds."""
    for project in range(100, 110):
        credentials.remember(str(project), "http://ls.example", "t0ken")
    addresses = Mock(wraps=credentials.addresses)
    monkeypatch.setattr(credentials, "addresses", addresses)
    page = client.get("/dashboard").text
    assert (addresses.call_count, all(f"Project {project}" in page for project in range(100, 110))) == (1, True)


def test_without_projects_the_list_says_how_to_connect_one(visitor):
    page = visitor.read()
    assert "No project is connected yet" in page
    assert "premask connect" in page


@pytest.mark.usefixtures("populated")
def test_a_project_says_what_is_served_and_how_good_it_is(visitor):
    page = " ".join(Markup(visitor.read("/projects/3")).text.split())
    for said in (
        "Coronary OCT, pullback 7",
        "p3-r005-lite0",
        "on 148 accepted tasks",
        "+0.046 against p3-r004-lite0, same tasks",
        "of 394 masks drawn beforehand",
        "few: 2 more would help",
        "training was killed by SIGKILL",
    ):
        assert said in page
    assert "Drawing saved" not in page


@pytest.mark.usefixtures("populated")
def test_minutes_are_shown_only_if_the_time_of_a_mask_is_set(make_client):
    page = Markup(make_client(minutes_per_mask=1.5).get("/dashboard/projects/3").text).text
    assert "Drawing saved" in page
    assert "6 h 42 min" in page  # 394 masks x 0.681 x 1.5 min
    assert "IoU kept × 1.5 min a mask" in page


def test_a_running_job_shows_how_far_it_is(visitor, populated):
    page = visitor.read("/projects/3")
    job = populated["training"]
    assert f'id="progress-{job}" data-live' in page
    assert '<progress max="1" value="0.62"' in page
    for said in ("FBANet learns the boundaries", "62 %", "step 412", "loss 0.214", "about 3 min left"):
        assert said in page
    assert "refiner 460/1000: about 170 s left" in page
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in page
    assert "http-equiv" not in visitor.read("/projects/6")


def test_a_job_that_says_nothing_for_a_while_is_not_said_to_end_soon(visitor, store, populated):
    edit_job(store, populated["training"], updated=time.time() - 250)
    assert "no news for 4 min" in visitor.read("/projects/3")
    edit_job(store, populated["training"], updated=time.time())
    assert "no news" not in visitor.read("/projects/3")


@pytest.mark.usefixtures("populated")
def test_a_failed_training_says_why(visitor):
    assert "The last training failed: project 6 has 2 accepted tasks" in visitor.read("/projects/6")


@pytest.mark.usefixtures("populated")
def test_a_new_project_says_how_to_begin(visitor):
    page = Markup(visitor.read("/projects/5")).text
    assert "How to begin" in page
    assert "Recent jobs" not in page


@pytest.mark.usefixtures("populated")
def test_versions_that_were_removed_stay_in_the_history(visitor, records):
    pruned = update(VERSIONS).where(VERSIONS.c.name == "p3-r001-lite0").values(state="removed")
    records.change(lambda connection: connection.execute(pruned))
    page = visitor.read("/projects/3")
    assert '<span class="badge removed">removed</span>' in page
    assert "Lumen from 0.931 (r001) to 0.964 (r006)" in page
    assert "/versions/p3-r001-lite0/promote" not in page


@pytest.mark.usefixtures("populated")
def test_a_version_whose_card_is_damaged_is_named_with_its_problem(visitor, records):
    damaged = update(VERSIONS).where(VERSIONS.c.name == "p3-r005-lite0").values(card="{")
    records.change(lambda connection: connection.execute(damaged))
    assert "does not read as a model card" in visitor.read("/projects/3")
    assert visitor.read()


def test_a_version_that_is_still_loading_says_who_cache(visitor, client, registry, tmp_path):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    client.post("/setup", json=setup_body())
    registry.promote("3", second)
    page = Markup(visitor.read("/projects/3")).text
    assert f"It is being loaded; {first} answers until then." in page


# Buttons


def test_train_queues_a_training_and_a_second_press_joins_it(visitor, store, credentials):
    credentials.remember("5", "http://ls.example", "t0ken")
    assert "is queued" in visitor.press("5", "train")
    assert "is waiting or running already" in visitor.press("5", "train")
    (job,) = store.find("5")
    assert (job.kind, job.state) == ("training", "queued")


def test_draw_masks_queues_predictions_of_unlabelled_tasks(visitor, store, populated):
    assert "are being pre-annotated already" in visitor.press("3", "predict")
    assert "Pre-annotation is queued" in visitor.press("5", "predict")
    (job,) = store.find("5")
    assert (job.kind, job.state) == ("prediction", "queued")


def test_cancel_ends_a_job_and_a_cancelled_one_cannot_be_cancelled(visitor, store, populated):
    job = populated["training"]
    assert "what is served stays" in visitor.press("3", f"jobs/{job}/cancel")
    assert store.get(job).state == "cancelled"
    assert "Press Pre-annotate to go on" in visitor.press("3", f"jobs/{populated['annotation']}/cancel")


def test_promote_serves_a_version_and_roll_back_returns(visitor, registry, populated):
    said = visitor.press("3", "versions/p3-r006-lite0/promote")
    assert "p3-r006-lite0 is served from now on. Press Pre-annotate" in said
    assert registry.current("3").version == "p3-r006-lite0"
    assert "p3-r005-lite0 is served again" in visitor.press("3", "rollback", to="p3-r005-lite0")
    assert registry.current("3").version == "p3-r005-lite0"


def test_rolling_back_twice_by_accident_goes_back_once(visitor, registry, populated):
    """The second press still names what the page promised, which by then is served already."""
    visitor.press("3", "rollback", to="p3-r004-lite0")
    assert "so nothing was done" in visitor.press("3", "rollback", to="p3-r004-lite0")
    assert registry.current("3").version == "p3-r004-lite0"


def test_rolling_back_the_first_version_returns_to_the_starter(visitor, registry, tmp_path):
    registry.promote("3", publish(registry, tmp_path))
    assert "Roll back to the starter" in visitor.read("/projects/3")
    assert "The starter is served again" in visitor.press("3", "rollback", to="starter")
    assert registry.current("3") is None
    assert "/rollback" not in visitor.read("/projects/3")


@pytest.mark.usefixtures("populated")
def test_no_button_works_without_the_pages_token(visitor, registry, store):
    jobs = {job.id: job.state for job in store.find()}
    running = next(name for name, state in jobs.items() if state == "training")
    for button in ("train", "predict", "rollback", "versions/p3-r006-lite0/promote", f"jobs/{running}/cancel"):
        for token in ({}, {"csrf_token": ""}, {"csrf_token": "forged"}):
            answer = visitor.client.post(f"/dashboard/projects/3/{button}", data={"to": "p3-r004-lite0", **token})
            assert answer.status_code == 403
            assert "reload it and press again" in answer.text
    assert registry.current("3").version == "p3-r005-lite0"
    assert {job.id: job.state for job in store.find()} == jobs


@pytest.mark.usefixtures("populated")
def test_nothing_is_queued_for_a_project_that_is_not_known(visitor, store):
    before = len(store.find())
    token = re.search(r'name="csrf_token" value="([^"]+)"', visitor.read("/projects/3"))[1]
    for button in ("train", "predict"):
        answer = visitor.client.post(f"/dashboard/projects/99/{button}", data={"csrf_token": token})
        assert answer.status_code == 404
    assert len(store.find()) == before


# What there is to learn


class Told:
    """Outlooks that say what they are told to."""

    def __init__(self, outlook):
        self.outlook = outlook

    def of(self, project, wait=0.0):
        return self.outlook

    def forget(self, project):
        pass


@pytest.fixture
def visitor_told(make_client):
    return lambda **known: Visitor(make_client(outlooks=Told(Outlook(needed=4, **known))))


def test_train_says_at_once_that_too_few_tasks_are_accepted(visitor_told, store, credentials):
    """Not after two minutes of a job."""
    credentials.remember("5", "http://ls.example", "t0ken")
    visitor = visitor_told(accepted=3, new=3)
    for path in ("", "/projects/5"):
        assert "No model knows these classes yet: 3 of 4 needed tasks accepted." in visitor.read(path)
    assert "Not yet: 3 of 4 needed tasks are accepted." in Markup(visitor.read("/projects/5")).text
    assert "annotate and submit 1 more" in visitor.press("5", "train")
    assert store.find("5") == []


def test_what_a_training_could_learn_is_shown_beside_its_button(visitor_told, credentials, store):
    credentials.remember("5", "http://ls.example", "t0ken")
    visitor = visitor_told(accepted=30, new=12, looked=12, corrected=7, classes={"Rust": 9, "Blight": 2})
    page = " ".join(Markup(visitor.read("/projects/5")).text.split())
    for said in ("Train now?", "Accepted tasks to learn from 12", "Corrected much 7", "of 12 looked into", "Rust 9"):
        assert said in page
    assert "is queued" in visitor.press("5", "train")


def test_nothing_is_pre_annotated_without_a_model(visitor_told, store, credentials):
    """Not a job that fails after it has loaded the networks."""
    credentials.remember("5", "http://ls.example", "t0ken")
    visitor = visitor_told(accepted=8, waiting="p5-r001-lite0", title="Leaves")
    assert "p5-r001-lite0 waits to be promoted; 8 tasks accepted." in visitor.press("5", "predict")
    assert store.find("5") == []
    assert "<h1>Leaves</h1>" in visitor.read("/projects/5")
    assert (">Leaves</a>" in visitor.read(), "no version" in visitor.read()) == (True, True)


@pytest.mark.usefixtures("populated")
def test_while_label_studio_is_away_nothing_is_said_of_a_starter_that_may_not_answer(make_client, registry):
    visitor = Visitor(make_client(outlooks=Told(None)))
    while registry.current("3") is not None:
        said = visitor.press("3", "rollback", to=registry.rollback_target("3"))
    assert said == "No version is served any more."


@pytest.mark.usefixtures("populated")
def test_jobs_that_run_are_told_once_and_a_version_promoted_since_is_no_candidate(visitor, populated, registry):
    registry.promote("3", "p3-r006-lite0")
    page = visitor.read("/projects/3")
    recent = " ".join(page.partition('id="jobs"')[2].split())
    assert "stays a candidate" in recent
    assert "Now: p3-r006-lite0 is served, promoted by hand" in recent
    assert "FBANet learns the boundaries" not in recent


@pytest.mark.usefixtures("populated")
def test_the_starter_is_never_said_to_draw_what_it_does_not_know(visitor_told, registry):
    visitor = visitor_told(accepted=190)
    for _ in range(6):
        target = registry.rollback_target("3")
        said = visitor.press("3", "rollback", to=target) if target else ""
    assert said == "" or "No version is served any more" in said
    page = visitor.read("/projects/3")
    assert registry.current("3") is None
    assert "starter" not in page.lower()
    assert "No model yet" in page
    assert "is served from now on" not in visitor.read()


@pytest.mark.usefixtures("populated")
def test_a_candidate_says_what_is_missing_and_shows_its_masks_beside_those_before(visitor):
    page = visitor.read("/projects/3")
    text = " ".join(Markup(page).text.split())
    assert "Missing: about 10 more corrected tasks would tell" in text
    assert "p3-r006-lite0 and the version before, side by side" in text
    assert "Promote p3-r006-lite0…" in text
    pictures = re.findall(r'src="([^"]+/p3-r006-lite0/gallery/d1-[^"]+)"', page)
    assert len(pictures) >= 4
    assert visitor.client.get(pictures[1], buffered=True).mimetype == "image/jpeg"


@pytest.mark.usefixtures("populated")
def test_figures_are_explained_where_they_stand(visitor):
    page = visitor.read("/projects/3")
    for said in ("Intersection over union", "How well the outlines agree", "The map cut into three"):
        assert said in page


@pytest.mark.usefixtures("populated")
def test_classes_have_label_studios_colours_and_annotators_their_figures(visitor):
    page = visitor.read("/projects/3")
    assert 'color="#2e86de"' in page
    assert "ada@example.org" in page


@pytest.mark.usefixtures("populated")
def test_tasks_without_masks_are_listed_with_their_reasons(visitor):
    page = Markup(visitor.read("/projects/3")).text
    assert "2 tasks without masks, and why" in page
    assert "the host does not answer" in page


# What cannot be


@pytest.mark.usefixtures("populated")
def test_what_does_not_exist_is_a_page_that_leads_on(visitor):
    for path, says in (
        ("/projects/99", "project 99 is not known here; `premask connect --project 99`"),
        ("/projects/..%2f3", "There is no page"),
        ("/projects/a.b", "project a.b is not known here"),
        ("/projects/3/train", "There is no page"),
        ("/nowhere", "There is no page /dashboard/nowhere"),
        ("/projects/3/versions/p3-r099/gallery/1-frame.jpg", "no version &#39;p3-r099&#39;"),
        ("/projects/3/versions/p3-r001-lite0/gallery/1-frame.jpg", "has no file"),
    ):
        page = visitor.read(path, status=404)
        assert says in page
        assert 'href="/dashboard"' in page


@pytest.mark.usefixtures("populated")
def test_pictures_never_lead_out_of_their_folder(visitor):
    card = (
        "../card.json",
        "..%2fcard.json",
        "%2e%2e/card.json",
        "%2e%2e%2fcard.json",
        "..%5ccard.json",
        "....//card.json",
    )
    for version in ("p3-r005-lite0", "p3-r005-lite0%2f..", "..", "."):
        for name in (*card, "/etc/passwd", "%2fetc%2fpasswd", ".", "", "%00"):
            answer = visitor.client.get(f"/dashboard/projects/3/versions/{version}/gallery/{name}")
            assert answer.status_code == 404, (version, name)
            assert "backbone" not in answer.text


@pytest.mark.usefixtures("populated")
def test_pictures_are_served_as_what_they_are(visitor):
    base = "/dashboard/projects/3/versions/p3-r005-lite0/gallery"

    def counted() -> dict[str, float]:
        metrics = visitor.client.get("/metrics").text
        # Refusals have a row of their own, before or after this one.
        known = r'^premask_requests_(total|in_flight)\{route="[^"]*/gallery/[^"]*"(?:,status="200")?\} (\S+)$'
        return {name: float(value) for name, value in re.findall(known, metrics, re.M)}

    before = counted()
    assert visitor.client.get(f"{base}/1-frame.jpg", buffered=True).mimetype == "image/jpeg"
    sources = re.findall(rf'src="({base}/[^"]+\.png)"', visitor.read("/projects/3"))
    assert sources
    assert visitor.client.get(sources[0], buffered=True).mimetype == "image/png"
    after = counted()
    assert after["in_flight"] == before.get("in_flight", 0)
    assert after["total"] == before.get("total", 0) + 2


def test_text_from_elsewhere_is_text_on_the_page(visitor, store, credentials):
    """Titles, reasons, classes, logs and addresses come from other programs."""
    nasty = "<script>alert(1)</script>"
    credentials.remember("5", "javascript:alert(1)//", "t0ken")
    job, _ = store.submit("training", "5")
    store.claim(job.id, "worker/1:1")
    store.log(job.id, nasty)
    edit_job(store, job.id, message=nasty, report={"title": nasty, "classes": {nasty: 3}, "kept": {nasty: {nasty: {
        "drawn": 1, "iou": 0.5, "unchanged": 0, "added": 0}}}})  # fmt: skip
    for path in ("", "/projects/5"):
        page = visitor.read(path)
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
        assert "javascript:" not in page


@pytest.mark.usefixtures("populated")
def test_a_page_that_fails_can_be_found_in_the_log_and_shows_no_inner_workings(visitor, store, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("inner workings")

    monkeypatch.setattr(store, "find", broken)
    answer = visitor.client.get("/dashboard/projects/3")
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert "inner workings" not in answer.text
    assert f"about request {answer.headers['X-Request-ID']}" in answer.text
    assert "inner workings" in caplog.text


@pytest.mark.usefixtures("populated")
def test_the_password_is_asked_for_as_browsers_expect_it(make_client):
    client = make_client(login=Login("lead", "s3cret"))
    refused = client.get("/dashboard")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert client.get("/dashboard", auth=("lead", "s3cret")).status_code == 200


@pytest.mark.usefixtures("populated")
def test_the_api_tells_the_same_history(client):
    (project,) = client.get("/api/versions?project=3").json["projects"]
    last = project["versions"][-1]
    assert (last["version"], last["before"], last["metrics"]["mean_iou"]) == (
        "p3-r006-lite0",
        {"mean_iou": 0.701},
        0.697,
    )
    assert json.dumps(project)


@pytest.mark.usefixtures("populated")
def test_doubtful_tasks_are_listed_with_links_and_leave_when_they_are_fine(visitor, records):
    assert "2 accepted tasks on which a model sees something else" in visitor.read("/projects/3")
    page = visitor.read("/projects/3/review")
    assert re.findall(r'data\?task=(\d+)"', page) == ["41", "12"]
    for said in ("likely wrong label", "the mask of Lipid core lies where the model sees Fibrous cap", "likely miss"):
        assert said in page
    assert "has learnt this annotation and disagrees" in page
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    answer = visitor.client.post("/dashboard/projects/3/review/41/fine", data={"csrf_token": token})
    assert (answer.status_code, answer.location) == (303, "/dashboard/projects/3/review")
    page = visitor.read("/projects/3/review")
    assert "Task 41 is fine; it comes back only if its annotations change." in page
    assert re.findall(r'data\?task=(\d+)"', page) == ["12"]
    visitor.client.post("/dashboard/projects/3/review/41/fine", data={"csrf_token": token})
    assert "Task 41 had left the queue already." in visitor.read("/projects/3/review")
    strange = visitor.client.post("/dashboard/projects/3/review/false/fine", data={"csrf_token": token})
    assert strange.status_code == 404
    assert "There is no task &#39;false&#39;: expected a number." in strange.text


@pytest.mark.usefixtures("populated")
def test_looking_for_errors_queues_one_job_and_says_so(visitor, store):
    page = visitor.read("/projects/5/review")
    assert "Nothing was looked at yet" in page
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
    for said in ("A job looks at all accepted tasks", "Accepted tasks are being looked at already."):
        answer = visitor.client.post("/dashboard/projects/5/review", data={"csrf_token": token})
        assert answer.status_code == 303
        assert said in visitor.read("/projects/5/review")
    assert [(job.kind, job.state) for job in store.find("5")] == [("review", "queued")]


@pytest.mark.usefixtures("populated")
def test_a_review_of_a_project_that_is_not_known_is_refused(visitor):
    assert "premask connect --project 99" in visitor.read("/projects/99/review", status=404)
