"""To any request the answer is one that the description names: no 500, and nothing wrong taken for right.

Requests are made from the description: half of them have the shape that it asks for, filled with anything or with
things that are there; the other half break it on purpose.

The soak asks 20,000 times, and /health beside them all the while. `PREMASK_SOAK_REQUESTS=2000` shortens it. Clients
that are slow are in tests/backend/soak: they need a socket.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from backend.bench.measure import percentile
from backend.prediction.responder import Responder
from backend.web.openapi import document
from backend.web.security import SESSION_COOKIE
from tests.backend.fakes import CONFIG, OTHER_CONFIG, predict_body, setup_body
from tests.backend.fuzz.backend_in_use import PASSWORD, USER, BackendInUse, Watched, backend_in_use, watched

PROMPTED = CONFIG.replace(
    "</View>",
    '<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Lumen"/>'
    '</KeyPointLabels><Choices name="kind" toName="image"><Choice value="Lumen"/></Choices></View>',
)
CONFIGS = [CONFIG, PROMPTED, OTHER_CONFIG, "<View/>"]
SOAK = int(os.environ.get("PREMASK_SOAK_REQUESTS", "20000"))
GROWTH = 1 << 30  # bytes: bodies of 1 MB as objects, decoded images and answers that are kept: docs/operations.md

# What a field holds that it should not: of another type, huge, deep, or all at once.
HOSTILE = [
    None, True, -1, 10**400, 1e308, float("inf"), "", "\ud800", "\x00", "A" * 100_000, "-eyJ" * 20_000, "../" * 20_000,
    "<View>" * 5_000, "<View>" + '<Brush name="a" toName="image"/><Labels name="l" toName="image"/>' * 300 + "</View>",
    [], {}, [None], [[]] * 5_000, {str(key): key for key in range(5_000)}, "http://[", "s3://" * 5_000,
]  # fmt: skip
DEEP = "[" * 900 + "]" * 900

OPERATIONS = [
    (path, method)
    for path, operations in document()["paths"].items()
    for method in operations
    if method != "parameters"
]


NUMBERS = st.one_of(st.floats(-20, 120), st.integers(-1, 300), st.floats(), st.none(), st.text(max_size=3))
LABELS = st.sampled_from([["Lumen"], ["Fibrous cap"], [], ["Cat"], "Lumen", None])
KINDS = ["brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "keypointlabels", "choices"]
# Regions that are nearly right: prompts, and what is drawn already.
REGIONS = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(KINDS),
            "from_name": st.sampled_from(["tag", "kp", "kind"]),
            "to_name": st.just("image"),
            "value": st.fixed_dictionaries(
                {},
                optional={name: NUMBERS for name in ("x", "y", "width", "height", "radiusX", "radiusY", "rotation")}
                | {name: LABELS for name in KINDS}
                | {"points": st.lists(st.lists(NUMBERS, max_size=3), max_size=5) | NUMBERS}
                | {"format": st.just("rle"), "rle": st.lists(st.integers(0, 255), max_size=40) | NUMBERS},
            ),
        },
        optional={
            "id": st.text(max_size=5) | NUMBERS,
            "original_width": st.sampled_from([30, 46, 10**9, -1, None]),
            "original_height": st.sampled_from([24, 40, 10**9, 0, "24"]),
            "is_positive": st.booleans() | NUMBERS,
        },
    ),
    NUMBERS,
)


def tasks(known: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Tasks of Label Studio, some of them with work in them."""
    drawn = st.lists(st.fixed_dictionaries({"result": st.lists(REGIONS, max_size=3) | NUMBERS}) | NUMBERS, max_size=2)
    return st.fixed_dictionaries(
        {
            "id": st.sampled_from(known["task"]),
            "data": st.fixed_dictionaries({"image": st.sampled_from(known["address"]) | NUMBERS}),
        },
        optional={"annotations": drawn | NUMBERS, "predictions": drawn, "drafts": drawn},
    )


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Iterator[BackendInUse]:
    with pytest.MonkeyPatch.context() as patched:
        # Two people who open one task wait for each other; here the first answer is never stored.
        patched.setitem(Responder.__init__.__kwdefaults__, "patience", 0.01)
        with backend_in_use(tmp_path_factory.mktemp("data"), tiny_model) as made:
            yield made


@pytest.fixture(scope="module")
def seen(backend: BackendInUse) -> Iterator[Watched]:
    """What /health and the memory are like from the first test that asks for it to the last."""
    with watched(backend) as seen:
        yield seen


@pytest.fixture(scope="module")
def description(backend: BackendInUse) -> Any:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", backend.app, auth=(USER, PASSWORD))
    schema.config.generation.with_security_parameters = False  # every request here brings the password
    schema.config.checks.positive_data_acceptance.expected_statuses.append("422")
    schema.hook("before_generate_case")(lambda context, cases: _filled(cases, backend))
    return schema


@st.composite
def _filled(draw: st.DrawFn, cases: st.SearchStrategy[Any], backend: BackendInUse) -> Any:
    """Half of the valid requests with things in them that are there."""
    case = draw(cases)
    if case.meta is not None and case.meta.generation.mode.is_positive and draw(st.booleans()):
        plain = backend.known | {"project": backend.known["project"][:2]}
        case.path_parameters = _with_known(draw, case.path_parameters, plain)
        case.query = _with_known(draw, case.query, plain)
        if isinstance(case.body, dict):
            case.body = _with_known(draw, case.body, backend.known)
        if case.path.startswith("/dashboard") and isinstance(case.body, dict):
            case.body["csrf_token"], case.cookies[SESSION_COOKIE] = backend.form
    return case


def _with_known(draw: st.DrawFn, value: Any, known: dict[str, list[Any]]) -> Any:
    if isinstance(value, list):
        return [_with_known(draw, one, known) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _known(draw, key, one, known) for key, one in value.items()}


def _known(draw: st.DrawFn, key: str, value: Any, known: dict[str, list[Any]]) -> Any:
    """A value for a field of this name, where there was `value`."""
    places: dict[str, list[Any]] = {
        "version": known["version"],
        "job": known["job"],
        "job_id": known["job"],
        "label_config": CONFIGS,
        "schema": CONFIGS,
        "config": CONFIGS,
        "action": ["START_TRAINING", "ANNOTATION_CREATED"],
    }
    if key == "tasks" and isinstance(value, list):
        return draw(st.lists(tasks(known), max_size=4))
    if key == "context" and isinstance(value, dict):
        return {"result": draw(st.lists(REGIONS, max_size=3))}
    if key.startswith("project") and not isinstance(value, dict):
        same = [one for one in known["project"] if type(one) is type(value)]
        return draw(st.sampled_from(same)) if same else value
    return draw(st.sampled_from(places[key])) if key in places else _with_known(draw, value, known)


def fuzz(operation: Any, examples: int, *, fresh: bool) -> None:
    """Ask for so many valid requests of an operation, and for as many that break its description if any can.

    Args:
        operation: one method of one path.
        examples: how many.
        fresh: others than last time.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not fresh,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(mode: GenerationMode, data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        try:
            case.call_and_validate(auth=(USER, PASSWORD))
        except requests.exceptions.InvalidJSONError:
            reject()  # a number that is none, which the client does not send

    ask(mode=GenerationMode.POSITIVE)
    with suppress(Unsatisfiable):
        ask(mode=GenerationMode.NEGATIVE)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_one_that_the_description_names(description, path, method):
    fuzz(description[path][method], 8, fresh=False)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_hundreds_of_requests_of_each_operation_get_no_500(description, seen, path, method):
    fuzz(description[path][method], SOAK * 17 // 20 // len(OPERATIONS), fresh=True)


def _bodies(known: dict[str, list[Any]]) -> dict[str, Any]:
    """Whole requests by path."""
    addresses = [address for address in known["address"] if address.startswith("/")]
    project, version = int(known["project"][0]), known["version"][0]
    prompted = predict_body(addresses[:1], project=project, config=PROMPTED)
    prompted["tasks"][0] |= {"annotations": [], "drafts": [{"result": []}], "predictions": []}
    prompted["params"]["context"] = {"result": [{"type": "keypointlabels", "from_name": "kp", "to_name": "image",
                                                 "value": {"x": 5, "y": 5, "keypointlabels": ["Lumen"]}}]}  # fmt: skip
    return {
        "/setup": setup_body(project=project),
        "/predict": predict_body(addresses, project=project),
        "/predict?prompt": prompted,
        "/webhook": {"action": "ANNOTATION_CREATED", "project": {"id": project, "label_config": CONFIG}},
        "/train": {"project": {"id": project}},
        "/validate": {"config": CONFIG},
        "/duplicate_model": {"project_src": project, "project_dst": project + 1},
        f"/api/versions/{version}/promote": {"project": project},
    }


def _spoilt(data: st.DataObject, body: Any) -> Any:
    """A body of which one part, at any depth, is something else."""
    if isinstance(body, dict | list) and body and data.draw(st.integers(0, 4)):
        copy = body.copy()
        key = data.draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
        copy[key] = _spoilt(data, copy[key])
        return copy
    return data.draw(st.sampled_from(HOSTILE))


def spoil(backend: BackendInUse, examples: int, *, fresh: bool) -> None:
    """Post so many bodies with a hostile part, some of them deep."""
    bodies = _bodies(backend.known)
    client = backend.app.test_client()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not fresh,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def post(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(bodies)))
        text = json.dumps(_spoilt(data, bodies[path]))
        if data.draw(st.integers(0, 9)) == 0:
            text = text.replace("null", DEEP, 1)
        answer = client.post(path, data=text, content_type="application/json", auth=(USER, PASSWORD))
        assert answer.status_code < 500, (path, text[:300], answer.text[:300])
        assert len(answer.data) < 100_000

    post()


def test_a_body_that_is_hostile_in_one_part_gets_no_500(backend):
    spoil(backend, 100, fresh=False)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_thousands_of_hostile_bodies_get_no_500(backend, seen):
    spoil(backend, SOAK * 3 // 20, fresh=True)


@pytest.mark.soak
def test_that_was_twenty_thousand_requests_and_health_was_there_all_the_while(backend, seen, capsys):
    made, memory = sum(backend.statuses.values()) - len(seen.health), max(seen.memory) - seen.memory[0]
    statuses = backend.statuses - Counter({200: len(seen.health)})
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    p50, p99, most = (percentile(seen.health, percent) * 1000 for percent in (50, 99, 100))
    with capsys.disabled():
        print(f"\n{made} generated requests; answers by status: {counts}")
        print(f"/health {len(seen.health)} times: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {most:.0f} ms at most")
        print(f"memory {seen.memory[0] >> 20} MB at first, {max(seen.memory) >> 20} MB at most")
    assert made >= SOAK
    assert not any(status >= 500 for status in backend.statuses)
    assert p99 < 1000
    assert memory < GROWTH
