"""Connections go to the address that was judged, even if the name leads elsewhere afterwards."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ImageError, LabelStudioError
from backend.label_studio.addresses import (
    AddressRefused,
    GuardedAdapter,
    guarded_session,
    is_host,
    is_other_host,
    is_public,
    permitted,
)
from backend.label_studio.client import LabelStudio
from backend.label_studio.images import ImageLoader
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.label_studio.file_server import FileServer

Picture = Callable[[int, int], bytes]


class Names:
    """A name service in which each name answers with the next of its addresses, the last one for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): given for name, given in answers.items()}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in self.answers:
            return self._real(host, port, *args, **options)
        self.asked.append(host)
        remaining = self.answers[host]
        found = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [info for address in found for info in self._real(address, port, *args, **options)]


@pytest.mark.parametrize(
    ("address", "host", "other", "public"),
    [
        ("8.8.8.8", True, True, True),
        ("2001:4860:4860::8888", True, True, True),
        ("10.0.0.5", True, True, False),
        ("192.168.1.1", True, True, False),
        ("fd12::1", True, True, False),
        ("127.0.0.1", True, False, False),
        ("::1", True, False, False),
        ("::ffff:127.0.0.1", True, False, False),
        ("169.254.169.254", False, False, False),
        ("::ffff:169.254.169.254", False, False, False),
        ("fe80::1%eth0", False, False, False),
        ("fd00:ec2::254", False, False, False),
        ("100.100.100.200", False, False, False),
        ("0.0.0.0", False, False, False),
        ("::", False, False, False),
        ("224.0.0.1", False, False, False),
        ("255.255.255.255", False, False, False),
        ("0.1.2.3", False, False, False),
        ("fec0::1", True, True, False),  # site-local
        ("2002:808:808::1", True, True, False),  # 6to4, to 8.8.8.8 ...
        ("2002:7f00:1::1", True, False, False),  # ... to 127.0.0.1 ...
        ("2002:a9fe:a9fe::1", False, False, False),  # ... and to 169.254.169.254
        ("192.88.99.1", True, True, False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", True, False, False),  # Teredo, to 127.0.0.1 ...
        ("2001:0:a9fe:a9fe:8000:63bf:3fff:fdd2", False, False, False),  # ... and by way of 169.254.169.254
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", True, True, False),
        ("64:ff9b::8.8.8.8", False, False, False),  # NAT64
        ("64:ff9b::169.254.169.254", False, False, False),
        ("64:ff9b:1::a00:1", False, False, False),
        ("2001:4860::5efe:7f00:1", True, False, False),  # ISATAP, to 127.0.0.1 ...
        ("2001:4860::200:5efe:a9fe:a9fe", False, False, False),  # ... and to 169.254.169.254
        ("2001:4860::5efe:a00:1", True, True, False),
        ("::10.0.0.1", False, False, False),  # written as IPv6 in two outdated ways
        ("::ffff:0:10.0.0.1", False, False, False),
        ("::ffff:8.8.8.8", True, True, True),
        ("3fff::1", True, True, False),  # documentation
        ("2001:db8::1", True, True, False),
        ("5f00::1", False, False, False),
        ("2001:20::1", True, True, False),
    ],
)
def test_an_address_is_a_host_another_host_or_public(address: str, host: bool, other: bool, public: bool) -> None:
    def passes(judge: Any) -> bool:
        try:
            return bool(permitted(address, 80, judge))
        except AddressRefused:
            return False

    assert (passes(is_host), passes(is_other_host), passes(is_public)) == (host, other, public)


@given(st.ip_addresses())
def test_what_is_public_is_another_host_and_what_is_another_host_is_a_host(address: Any) -> None:
    assert is_public(address) <= is_other_host(address) <= is_host(address)
    assert not (address.is_private and is_public(address))


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:{}", "2002:{}::1", "2001:0:{}::1", "64:ff9b::{}"]))
def test_an_address_within_another_is_judged_too(inner: Any, form: str) -> None:
    """What is refused as it is stays refused in every form that leads to it."""
    groups = inner.packed.hex()
    outer = ip_address(form.format(f"{groups[:4]}:{groups[4:]}"))
    assert is_host(outer) <= is_host(inner)
    assert is_other_host(outer) <= is_other_host(inner)
    assert is_public(outer) == (is_public(inner) and form == "::ffff:{}")


def test_a_name_is_asked_once_so_that_it_cannot_answer_differently_the_second_time(
    monkeypatch: pytest.MonkeyPatch, elsewhere: FileServer, picture: Picture
) -> None:
    """A host that is allowed answers with its own address when judged, and with the cloud's when connected to."""
    elsewhere.files["a.png"] = picture(4, 4)
    port = elsewhere.host.partition(":")[2]
    names = Names(monkeypatch, images_example=[["127.0.0.1"], ["169.254.169.254"]])
    session = guarded_session(GuardedAdapter(is_host))
    with session, session.get(f"http://images.example:{port}/a.png", timeout=5) as response:
        assert response.ok
    assert names.asked == ["images.example"]
    assert elsewhere.hosts == [f"images.example:{port}"]


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "::1", "0.0.0.0"])
def test_an_allowed_name_leads_neither_to_this_machine_nor_to_a_clouds_credentials(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    Names(monkeypatch, images_example=[[address]])
    with pytest.raises(ImageError, match=rf"images\.example is at {address}, no image may come from there"):
        ImageLoader(None, allowed_hosts=["images.example"]).load(
            {"id": 1, "data": {"image": "http://images.example/a.png"}}, "image"
        )


def test_of_several_addresses_only_those_that_pass_are_tried(
    monkeypatch: pytest.MonkeyPatch, elsewhere: FileServer
) -> None:
    elsewhere.files["a.png"] = b"x"
    Names(monkeypatch, images_example=[["169.254.169.254", "127.0.0.2", "127.0.0.1"]])
    port = elsewhere.host.partition(":")[2]
    session = guarded_session(GuardedAdapter(is_host))
    with session, session.get(f"http://images.example:{port}/a.png", timeout=5) as response:
        assert response.content == b"x"


def test_where_label_studio_sends_us_must_be_public_or_allowed(
    server: FakeLabelStudio, client: LabelStudio, elsewhere: FileServer, picture: Picture
) -> None:
    """People who configure a storage in a project could name any host of the network that the backend stands in."""
    elsewhere.files["k.png"] = picture(3, 3)
    server.storage["s3://bucket/k.png"] = f"{elsewhere.url}/k.png"
    task = {"id": 7, "data": {"image": "s3://bucket/k.png"}}
    with pytest.raises(ImageError, match=rf"not public.*add {elsewhere.host} to PREMASK_IMAGE_HOSTS"):
        ImageLoader(client).load(task, "image")
    assert elsewhere.hosts == []
    assert ImageLoader(client, allowed_hosts=[elsewhere.host]).load(task, "image").shape == (3, 3, 3)


def test_label_studio_itself_is_never_at_a_clouds_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who reaches /setup may say where Label Studio is."""
    Names(monkeypatch, ls_example=[["169.254.169.254"]])
    with pytest.raises(LabelStudioError, match=r"where no Label Studio can be; check LABEL_STUDIO_URL"):
        LabelStudio("http://ls.example", "key").check()


@pytest.mark.parametrize(
    "address", ["http://10.0.0.5\\@{host}/a.png", "http://10.0.0.5\\{host}/a.png", "http://{host}\n/a.png"]
)
def test_an_address_that_two_parsers_read_differently_is_refused(elsewhere: FileServer, address: str) -> None:
    loader = ImageLoader(None, allowed_hosts=[elsewhere.host, "127.0.0.1"])
    with pytest.raises(ImageError, match="backslash or a control character"):
        loader.load({"id": 1, "data": {"image": address.format(host=elsewhere.host)}}, "image")


@pytest.mark.parametrize(
    "address", ["/data/local-files/?d=../../etc/passwd", "/data/local-files/?d=a/%2e%2e/b.png", "/data/upload/%2e%2e/x"]
)
def test_paths_that_climb_out_of_label_studios_folders_are_not_asked_for(
    server: FakeLabelStudio, client: LabelStudio, address: str
) -> None:
    with pytest.raises(ImageError, match="leads out of its folder"):
        ImageLoader(client).load({"id": 1, "data": {"image": address}}, "image")
    assert server.requests == []


def test_through_a_proxy_names_are_judged_and_what_cannot_be_looked_up_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, elsewhere: FileServer
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.url)
    Names(monkeypatch, inner_example=[["10.0.0.5"]])
    with guarded_session(GuardedAdapter(is_public)) as session:
        with pytest.raises(AddressRefused):
            session.get("http://inner.example/a.png", timeout=5)
        assert elsewhere.hosts == []
        assert session.get("http://unknown.invalid/a.png", timeout=5).status_code == 404
    assert elsewhere.hosts == ["unknown.invalid"]


@pytest.fixture
def trickling() -> Iterator[str]:
    """A server that sends a byte whenever the other side has nearly lost patience, for ever."""
    stopped = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        heads = {b"/head": b"HTTP/1.1 200 OK\r\nX: ", b"/body": b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"}

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(4096)
                    begun = next(head for path, head in heads.items() if path in request)
                    try:
                        connection.sendall(begun)
                        while not stopped.wait(0.05):
                            connection.sendall(b"x")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        stopped.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("of_label_studio", [True, False])
def test_a_server_that_trickles_is_given_up_at_the_deadline(trickling: str, part: str, of_label_studio: bool) -> None:
    client = LabelStudio(trickling, "key") if of_label_studio else None
    loader = ImageLoader(client, allowed_hosts=["127.0.0.1"], timeout=(5, 5), total_seconds=0.5)
    began = time.monotonic()
    with pytest.raises(ImageError, match="in time"):
        loader.load({"id": 1, "data": {"image": f"{trickling}/{part}"}}, "image")
    assert time.monotonic() - began < 60  # it would go on for ever


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_call_to_a_label_studio_that_trickles_is_given_up(trickling: str, part: str) -> None:
    """It would hold up every project that the same thread looks after."""
    client = LabelStudio(f"{trickling}/{part}", "key", timeout=(0.01, 0.06))
    with pytest.raises(LabelStudioError, match="in time"):
        client.check()


def test_compressed_transfer_is_bounded_by_what_it_becomes(elsewhere: FileServer) -> None:
    """Ten kilobytes of gzip that become ten megabytes."""
    elsewhere.files["bomb"] = bytes(10 << 20)
    elsewhere.compressed.add("bomb")
    loader = ImageLoader(None, allowed_hosts=[elsewhere.host], max_bytes=1 << 20)
    with pytest.raises(ImageError, match="larger than 1 MiB"):
        loader.load({"id": 1, "data": {"image": f"{elsewhere.url}/bomb"}}, "image")


@pytest.mark.parametrize("host", ["a" * 300, "a..b"])
def test_a_name_that_is_none_is_an_error_of_the_network(host: str) -> None:
    with pytest.raises(OSError, match=r"no host name|not known"):
        permitted(host, 80, is_host)
