"""A page whose name leads to this server is not taken for a page of this server (DNS rebinding)."""

import socket

import pytest

from backend.entrypoints.wsgi import names_of
from backend.settings import Settings
from backend.system.login import Login
from backend.web.hosts import Hosts
from tests.backend.fakes import predict_body, setup_body, start_training

NEARBY = [
    "localhost", "localhost:9090", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1:9090", "[::1]:9090",
    "10.1.2.3", "192.168.0.7:80", "[fd00::1]", "8.8.8.8", "premask", "premask:9090", "ml-backend", "my_backend_1:9090",
    "premask.annotation.svc", "premask.annotation.svc.cluster.local:9090", "host.docker.internal:9090",
    socket.gethostname(), f"{socket.gethostname()}.local",
]  # fmt: skip
FOREIGN = [
    "evil.example",
    "evil.example:9090",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example.",
    "premask.annotation.svc.evil.example",
    "svc.cluster.local.evil.example",
    "notlocalhost.com",
    "internal.evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "evil.example/localhost",
    "localhost evil.example",
    "[evil]",
    "1.2.3.4.5",
    "[::1",
    "::1",
    "premask:port",
    "127.1",
    "0x7f.1",
    "xn--lcalhost-54a.example",
    "svc.example",
]


@pytest.mark.parametrize("host", NEARBY)
def test_addresses_and_names_of_machines_nearby_need_no_setting(client, host):
    assert client.get("/api/versions", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_another_name_reads_nothing_and_changes_nothing(client, jobs, credentials, host):
    for path in ("/api/versions", "/versions", "/api/jobs", "/metrics", "/ready", "/dashboard", "/openapi.json", "/x"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, "PREMASK_ALLOWED_HOSTS" in answer.text) == (400, True), path
    for path, body in (("/webhook", start_training()), ("/setup", setup_body()), ("/predict", predict_body(["1"]))):
        answer = client.post(path, json=body, headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code in (400, 403), path
    assert (jobs.store.find(), credentials.addresses()) == ([], {})
    assert client.get("/health", headers={"Host": host}).status_code == 200  # for load balancers; it tells nothing


@pytest.mark.parametrize(
    ("named", "accepted", "refused"),
    [
        ("annotate.example.org", "annotate.example.org:443", "b.annotate.example.org"),
        (".example.org", "b.a.example.org", "example.org.evil.example"),
        ("*.example.org", "a.example.org", "notexample.org"),
        ("*", "evil.example", None),
    ],
)
def test_names_of_proxies_are_a_setting(make_client, named, accepted, refused):
    settings = Settings.from_environ({"PREMASK_ALLOWED_HOSTS": f" {named.upper()},other.example"})
    client = make_client(allowed_hosts=settings.allowed_hosts)
    assert client.get("/versions", headers={"Host": accepted}).status_code == 200
    assert client.get("/versions", headers={"Host": "localhost"}).status_code == 200
    assert refused is None or client.get("/versions", headers={"Host": refused}).status_code == 400


def test_with_a_password_any_name_will_do_unless_names_are_given(make_client):
    login = Login("lead", "s3cret-s3cret")
    foreign = {"Host": "evil.example"}
    assert make_client(login=login).get("/versions", headers=foreign).status_code == 401
    assert make_client(login=login).get("/versions", headers=foreign, auth=("lead", "s3cret-s3cret")).status_code == 200
    strict = make_client(login=login, allowed_hosts=["annotate.example.org"])
    assert strict.get("/versions", headers=foreign, auth=("lead", "s3cret-s3cret")).status_code == 400


def test_the_name_that_the_server_is_told_to_listen_on_is_its_own():
    settings = Settings.from_environ({"PREMASK_HOST": "annotate.example.org"})
    assert Hosts(names_of(settings, None)).accepts("annotate.example.org:9090")
    assert names_of(settings, Login("a", "b")) == ()


def test_a_name_that_is_none_is_refused_at_the_start():
    for wrong in ("http://a.example", "a.example:9090", "a.example/x", "a b"):
        with pytest.raises(Exception, match=r"PREMASK_ALLOWED_HOSTS=.*is no host name"):
            Settings.from_environ({"PREMASK_ALLOWED_HOSTS": wrong})


def test_an_origin_that_is_no_address_is_another_site(client):
    answer = client.post("/webhook", json=start_training(), headers={"Origin": "http://["})
    assert answer.status_code == 403
