import socket

import pytest

from backend.system.ports import obstacle, url_of


def test_a_port_that_is_bound_or_listened_on_is_taken_until_it_is_closed():
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        port = somebody.getsockname()[1]
        assert obstacle("127.0.0.1", port) == "Address already in use"
        somebody.listen(1)
        assert obstacle("127.0.0.1", port) == "Address already in use"
    assert obstacle("127.0.0.1", port) is None


def test_a_port_on_which_another_listens_on_all_interfaces_is_taken():
    with socket.create_server(("0.0.0.0", 0)) as somebody:
        assert obstacle("127.0.0.1", somebody.getsockname()[1]) == "Address already in use"


def test_an_address_of_another_machine_is_named_as_the_obstacle():
    assert "assign" in (obstacle("192.0.2.1", 9090) or "")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9090"),
        ("0.0.0.0", "http://127.0.0.1:9090"),
        ("::", "http://[::1]:9090"),
        ("fd00::1", "http://[fd00::1]:9090"),
        ("premask", "http://premask:9090"),
    ],
)
def test_a_server_on_all_interfaces_is_reached_by_loopback(host, url):
    assert url_of(host, 9090) == url
