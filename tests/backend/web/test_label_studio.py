import pytest

from backend.errors import LabelStudioError
from tests.backend.fakes import CONFIG, publish, setup_body, start_training


def test_a_config_is_judged_before_it_is_saved(client):
    assert client.post("/validate", json={"config": CONFIG}).json == {
        "status": "ok",
        "classes": ["Lumen", "Fibrous cap"],
    }
    nothing = client.post("/validate", json={"config": "<View/>"})
    assert (nothing.status_code, "nothing that this backend can fill" in nothing.json["error"]) == (422, True)
    assert client.post("/validate", json={}).status_code == 400


def test_deleting_a_project_ends_its_jobs_forgets_its_token_and_keeps_its_models(
    client, credentials, leases, registry, tmp_path
):
    version = publish(registry, tmp_path)
    client.post("/setup", json=setup_body())
    job = client.post("/webhook", json=start_training()).json["job"]
    other = client.post("/webhook", json=start_training(project=4)).json["job"]
    leases.request("3", ["7"])
    answer = client.post("/delete", json={"project": "3.1795393773"})
    assert answer.json == {"project": "3", "cancelled": [job], "kept": [version]}
    with pytest.raises(LabelStudioError, match="no credentials for project 3"):
        credentials.of("3")
    assert leases.due() == []
    assert client.get(f"/job_status?job={other}").json["job_status"] == "queued"
    assert client.post("/delete", json={"project": "3"}).json["cancelled"] == []


def test_a_duplicated_project_is_served_a_copy_of_the_model(client, registry, tmp_path):
    asked = {"project_src": "3.1795393773", "project_dst": "8.1795393774"}
    nothing = client.post("/duplicate_model", json=asked)
    assert (nothing.status_code, nothing.json) == (201, {"project": "8", "model_version": None})
    original = registry.promote("3", publish(registry, tmp_path))
    answer = client.post("/duplicate_model", json=asked)
    assert answer.json == {"project": "8", "model_version": "p8-r001-lite0"}
    copy = registry.current("8")
    assert (copy.version, copy.card.name, copy.card.parent) == ("p8-r001-lite0", "p8-r001-lite0", original.version)
    weights = "classifier.safetensors"
    assert (copy.directory / weights).read_bytes() == (original.directory / weights).read_bytes()
    assert client.post("/setup", json=setup_body(project=8)).json == {"model_version": "p8-r001-lite0"}
    again = client.post("/duplicate_model", json=asked)
    assert (again.status_code, "has versions already" in again.json["error"]) == (409, True)
    assert [path.name for path in registry.root.iterdir()] == ["project-3", "project-8"]


def test_another_sites_form_can_neither_delete_nor_duplicate(client):
    for path in ("/delete", "/duplicate_model"):
        answer = client.post(path, data='{"project": "3"}', content_type="text/plain")
        assert (answer.status_code, "application/json" in answer.json["error"]) == (400, True)
