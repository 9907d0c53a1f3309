"""Images of tasks: from the right host, with the key only where it belongs."""

from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backend.errors import ImageError
from backend.label_studio.client import LabelStudio
from backend.label_studio.images import ImageLoader, image_address, shown
from backend.label_studio.task_data import storage_key
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.label_studio.file_server import FileServer

Picture = Callable[[int, int], bytes]


def task(address: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": address}}


def why(loader: ImageLoader, address: Any) -> str:
    with pytest.raises(ImageError) as caught:
        loader.load(task(address), "image")
    assert str(caught.value).startswith("task 7: ")
    return str(caught.value)


def test_an_upload_is_fetched_with_the_token(server: FakeLabelStudio, client: LabelStudio, picture: Picture) -> None:
    task_id = server.add_upload(server.add_project("<View/>"), "a é.png", picture(6, 4))
    assert ImageLoader(client).load(server.tasks[task_id], "image").shape == (4, 6, 3)
    assert server.requests[-1][2] == f"Token {server.legacy_token}"


@pytest.mark.parametrize("host", ["", "http://127.0.0.1:{port}", "http://localhost:{port}", "HTTP://LOCALHOST:{port}"])
def test_local_files_are_fetched_however_label_studio_calls_itself(
    server: FakeLabelStudio, client: LabelStudio, picture: Picture, host: str
) -> None:
    server.files["/data/local-files/?d=sub/x y+é.png"] = picture(5, 5)
    address = host.format(port=server.port) + "/data/local-files/?d=sub/x%20y%2B%C3%A9.png"
    assert ImageLoader(client).load(task(address), "image").shape == (5, 5, 3)
    assert server.requests[-1][2].startswith("Token ")


@pytest.mark.parametrize("prefix", ["", "/label-studio"])
def test_a_label_studio_under_a_path_is_asked_under_it(picture: Picture, prefix: str) -> None:
    """Task data may or may not repeat the path that Label Studio is mounted under."""
    with FakeLabelStudio(base_path="/label-studio") as server:
        server.files["/data/upload/1/a.png"] = picture(3, 2)
        loader = ImageLoader(LabelStudio(server.url + "/", server.legacy_token))
        assert loader.load(task(f"{prefix}/data/upload/1/a.png"), "image").shape == (2, 3, 3)
        absolute = f"http://127.0.0.1:{server.port}/other/a.png"
        assert "neither Label Studio's nor allowed" in why(loader, absolute) or "LABEL_STUDIO_HOST" in why(
            loader, absolute
        )


def test_a_cloud_object_is_asked_for_with_the_task_and_fetched_without_the_token(
    server: FakeLabelStudio, client: LabelStudio, elsewhere: FileServer, picture: Picture
) -> None:
    elsewhere.files["bucket/k.png"] = picture(8, 9)
    server.storage["s3://bucket/k.png"] = f"{elsewhere.url}/bucket/k.png?signature=secret"
    loader = ImageLoader(client, allowed_hosts=[elsewhere.host])
    assert loader.load(task("s3://bucket/k.png"), "image").shape == (9, 8, 3)
    assert server.requests[-1][1].startswith("/tasks/7/presign/?fileuri=")
    assert elsewhere.authorizations == [""]


def test_other_hosts_are_fetched_from_only_if_allowed_and_never_with_the_token(
    server: FakeLabelStudio, client: LabelStudio, elsewhere: FileServer, picture: Picture
) -> None:
    elsewhere.files["a.png"] = picture(4, 4)
    address = f"{elsewhere.url}/a.png"
    assert "LABEL_STUDIO_HOST" in why(ImageLoader(client), address)
    assert elsewhere.authorizations == []
    for allowed in (elsewhere.host, "127.0.0.1"):
        assert ImageLoader(client, allowed_hosts=[allowed]).load(task(address), "image").shape == (4, 4, 3)
    assert elsewhere.authorizations == ["", ""]
    assert ImageLoader(None, allowed_hosts=[elsewhere.host]).load(task(address), "image").shape == (4, 4, 3)


def test_a_redirect_of_an_allowed_host_leads_only_to_allowed_hosts(
    elsewhere: FileServer, server: FakeLabelStudio, picture: Picture
) -> None:
    """A cloud's metadata address is out of reach, even if an allowed host redirects there."""
    loader = ImageLoader(None, allowed_hosts=[elsewhere.host])
    elsewhere.redirects["meta"] = "http://169.254.169.254/latest/meta-data"
    assert "host 169.254.169.254 is neither" in why(loader, f"{elsewhere.url}/meta")
    elsewhere.redirects["loop"] = f"{elsewhere.url}/loop"
    assert "redirects more than 5 times" in why(loader, f"{elsewhere.url}/loop")
    elsewhere.redirects["old"] = "/new"
    elsewhere.files["new"] = picture(2, 2)
    assert loader.load(task(f"{elsewhere.url}/old"), "image").shape == (2, 2, 3)


def test_the_token_goes_to_no_path_but_those_of_files(server: FakeLabelStudio, client: LabelStudio) -> None:
    for path in ("/api/projects/1/", "/data/../api/projects/1/", "/data/%2e%2e/api/projects/1/"):
        why(ImageLoader(client), path)
        assert server.requests[-1][2] == ""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("data:image/png;base64,AAAA", "data:"),
        ("ftp://host/a.png", "begin with ftp:"),
        ("file:///etc/passwd", "begin with file:"),
        ("https://images.example.com/a.png?sig=secret", "add it to the allowed image hosts"),
        ("//images.example.com/a.png", "not read"),
        ("http://user:pass@images.example.com/a.png", "http://images.example.com/a.png"),
        ("/data/upload/1/none.png", "import it again"),
        ("http://[broken", "malformed"),
    ],
)
def test_what_is_not_fetched_is_named_with_the_reason(client: LabelStudio, address: str, said: str) -> None:
    text = why(ImageLoader(client), address)
    assert said in text
    assert "secret" not in text
    assert "pass@" not in text


def test_without_a_key_it_says_what_to_set() -> None:
    assert "LABEL_STUDIO_API_KEY" in why(ImageLoader(None), "/data/upload/1/a.png")
    assert "LABEL_STUDIO_API_KEY" in why(ImageLoader(None), "s3://bucket/a.png")


def test_a_refused_key_is_named_by_its_kind(server: FakeLabelStudio) -> None:
    assert "legacy token" in why(ImageLoader(LabelStudio(server.url, "wrong")), "/data/upload/1/a.png")


def test_files_and_images_that_are_too_large_are_refused(
    server: FakeLabelStudio, client: LabelStudio, picture: Picture
) -> None:
    server.files["/data/upload/1/a.png"] = picture(50, 40)
    assert "larger than" in why(ImageLoader(client, max_bytes=1000), "/data/upload/1/a.png")
    assert "50 x 40 pixels" in why(ImageLoader(client, max_pixels=1999), "/data/upload/1/a.png")
    assert "in time" in why(ImageLoader(client, total_seconds=-1), "/data/upload/1/a.png")


def test_a_host_that_is_down_or_lacks_the_file_is_named(elsewhere: FileServer) -> None:
    assert "HTTP 404" in why(ImageLoader(None, allowed_hosts=[elsewhere.host]), f"{elsewhere.url}/none.png")
    assert "does not answer" in why(ImageLoader(None, allowed_hosts=["127.0.0.1:1"]), "http://127.0.0.1:1/a.png")


def test_a_web_page_instead_of_an_image_is_recognised(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.files["/data/upload/1/a.png"] = b"<!doctype html><title>Log in</title>"
    assert "a web page" in why(ImageLoader(client), "/data/upload/1/a.png")


def test_the_address_may_lie_deeper_or_under_the_key_of_bare_uploads() -> None:
    assert image_address({"id": 1, "data": {"scan": {"frame": "/a"}}}, "scan.frame") == "/a"
    assert image_address({"id": 1, "data": {"scan.frame": "/b"}}, "scan.frame") == "/b"
    assert image_address({"id": 1, "data": {"$undefined$": "/c"}}, "image") == "/c"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "of its data; it has no fields"),
        ({}, "of its data; it has no fields"),
        ({"image": ""}, "of its data but ''; its fields are 'image'"),
        ({"image": ["/a", "/b"]}, "of its data but list; its fields are 'image'"),
        ({"image": {"url": "/a"}}, "of its data but dict; its fields are 'image'"),
        ({"img": "/a"}, "of its data; its fields are 'img'"),
    ],
)
def test_task_data_without_an_address_is_an_error_that_names_the_key_and_what_is_there(data: Any, says: str) -> None:
    with pytest.raises(ImageError, match=f"task 1: no image address is under 'image' {says}"):
        image_address({"id": 1, "data": data}, "image")


def test_addresses_are_shown_without_secrets() -> None:
    assert shown("https://u:p@host:8/a.png?sig=x") == "https://host:8/a.png?…"
    assert shown("http://h/data/local-files/?d=a%20b.png") == "http://h/data/local-files/?d=a b.png"
    assert len(shown("/data/upload/" + "a" * 1000)) == 200


@pytest.mark.parametrize("key", ["a#1.png", "run?3/a.png", "a+b%20c.png", "a b.png", "\u00e9#?.png"])
def test_a_storage_key_stays_whole(server: FakeLabelStudio, client: LabelStudio, picture: Any, key: str) -> None:
    """It is no URL: it is asked for as it is, and shown so."""
    address = f"s3://bucket/{key}"
    with pytest.raises(ImageError) as caught:
        ImageLoader(client).load({"id": 7, "data": {"image": address}}, "image")
    assert address in str(caught.value)
    asked = parse_qs(urlsplit(server.requests[-1][1]).query)["fileuri"][0]
    assert urlsafe_b64decode(asked).decode() == address
    assert shown(address) == address
    assert storage_key(address) == key


def test_an_image_may_be_in_a_list_or_an_object() -> None:
    data = {"scans": [{"url": "/a"}, {"url": "/b"}], "my.list": ["/c", "/d"]}
    assert image_address({"data": data}, "scans[1].url") == "/b"
    assert image_address({"data": data}, "my.list[1]") == "/d"
    with pytest.raises(ImageError):
        image_address({"data": data}, "my.list[2]")
