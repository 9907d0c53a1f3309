"""Connections that are made only to network addresses they may be made to.

People who can import tasks choose where images are fetched from, and the backend stands in a network that they cannot
reach themselves. Names are no protection: one that is allowed may answer with any address, and with another one the
next time it is asked (DNS rebinding). So a name is looked up once, and the address that was judged is the one that is
connected to.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from backend.errors import LabelStudioError

Address = IPv4Address | IPv6Address
Judge = Callable[[Address], bool]

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Besides the link-local 169.254.169.254, where machines in clouds get credentials without being asked for any.
METADATA = {ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")}
# Networks that hold no hosts, or none that is reachable from everywhere, and which `ipaddress` lets pass, depending on
# Python's release: IANA's registries of special-purpose addresses grow.
THIS_NETWORK = ip_network("0.0.0.0/8")
GLOBAL_UNICAST = ip_network("2000::/3")
NOT_PUBLIC = [
    ip_network(text)
    for text in (
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # protocols, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
NAT64 = ip_network("64:ff9b::/96")
ISATAP = (0x00005EFE, 0x02005EFE)  # bits 64 to 95 of an address that ends in one of IPv4


class AddressRefused(ValueError):
    """A host's name leads to no address that may be connected to; the text names both."""


def is_host(address: Address) -> bool:
    """Whether an address belongs to a machine that somebody runs: not link-local, not a group, not reserved.

    Of an address that leads to others, as those of transition mechanisms do, all have to.
    """
    return all(map(_is_host, _within(address)))


def is_other_host(address: Address) -> bool:
    """As `is_host`, and not this machine itself."""
    return is_host(address) and not any(one.is_loopback for one in _within(address))


def is_public(address: Address) -> bool:
    """Whether an address is reachable from everywhere, so that nothing is gained by having us connect to it."""
    special = isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST and address.ipv4_mapped is None
    return is_host(address) and not special and all(map(_is_public, _within(address)))


def _is_host(address: Address) -> bool:
    if address.is_loopback:
        return True  # of IPv6, "reserved" as well
    unusable = address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved
    return not (unusable or address in METADATA or address in THIS_NETWORK)


def _is_public(address: Address) -> bool:
    return address.is_global and not any(address in network for network in NOT_PUBLIC)


def _within(address: Address) -> list[Address]:
    """An address and those of IPv4 that it leads to; instead of one that is only written as IPv6, what it stands for.

    >>> [str(one) for one in _within(ip_address("2002:a9fe:a9fe::1"))]
    ['2002:a9fe:a9fe::1', '169.254.169.254']
    """
    if isinstance(address, IPv4Address):
        return [address]
    if (mapped := address.ipv4_mapped) is not None:
        return [mapped]
    led = [address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or int(address) >> 32 & 0xFFFFFFFF in ISATAP:
        led.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(one for one in led if one is not None)]


def permitted(host: str, port: int | None, judge: Judge) -> list[str]:
    """The addresses of a host that pass.

    Raises:
        AddressRefused: it has addresses, and none passes.
        OSError: its name cannot be resolved.
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:
        raise OSError(f"{host[:80]!r} is no host name") from error
    if passing := [text for text in dict.fromkeys(found) if judge(ip_address(text))]:
        return passing
    raise AddressRefused(f"{host} is at {', '.join(dict.fromkeys(found))}")


class GuardedAdapter(HTTPAdapter):
    """Connects to permitted addresses alone; through a proxy, which connects itself, only to permitted names.

    Args:
        judge: whether an address may be connected to.
        opened: called with each new connection's socket.
    """

    def __init__(self, judge: Judge, opened: Callable[[socket.socket], None] = lambda sock: None) -> None:
        self._judge, self._opened = judge, opened
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of guarded connections."""
        super().init_poolmanager(*args, **options)
        adapter = self

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return adapter._connect(self)

        class SecureConnection(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return adapter._connect(self)

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request; raises AddressRefused besides what requests raises."""
        url = request.url or ""
        if select_proxy(url, options.get("proxies")):
            parts = urlsplit(url)
            # Behind a proxy, names of the world outside often cannot be looked up; then judging is left to it.
            with suppress(OSError):
                permitted(parts.hostname or "", parts.port, self._judge)
        return super().send(request, *args, **options)

    def _connect(self, connection: HTTPConnection) -> socket.socket:
        """Connect as urllib3 does, with its errors, but to addresses that were judged."""
        try:
            addresses = permitted(connection.host, connection.port, self._judge)
            sock = _first_that_cache(addresses, connection)
        except socket.gaierror as error:
            raise NameResolutionError(connection.host, connection, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, f"connecting to {connection.host} took too long") from error
        except OSError as error:
            raise NewConnectionError(connection, f"connecting failed: {error}") from error
        self._opened(sock)
        return sock


def _first_that_cache(addresses: Iterable[str], connection: HTTPConnection) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port), connection.timeout, socket_options=connection.socket_options
            )
        except OSError as error:
            failure = error
    raise failure


def guarded_session(adapter: GuardedAdapter) -> requests.Session:
    """A session without anybody's passwords, all of whose connections go through an adapter."""
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # Otherwise a ~/.netrc entry for the host would be sent, or replace a header of ours.
    session.auth = lambda request: request
    return session


@contextmanager
def limited_session(judge: Judge, deadline: float) -> Iterator[requests.Session]:
    """A session whose connections are cut off at a deadline, whatever is sent over them.

    Args:
        judge: whether a network address may be connected to.
        deadline: on the clock of `time.monotonic`.
    """
    sockets: list[socket.socket] = []
    # Of a connection that TLS takes over only a duplicate stays usable here.
    adapter = GuardedAdapter(judge, lambda sock: sockets.append(sock.dup()))
    # Time-outs count from byte to byte; a server that trickles its headers would hold this thread for hours.
    timer = threading.Timer(max(deadline - time.monotonic(), 0), _hang_up, [sockets])
    timer.daemon = True
    timer.start()
    try:
        with guarded_session(adapter) as session:
            yield session
    finally:
        timer.cancel()
        for sock in sockets:
            sock.close()


@contextmanager
def opened_elsewhere(
    url: str, judge: Judge, timeout: tuple[float, float], deadline: float
) -> Iterator[requests.Response]:
    """Open a file of a server that is not Label Studio, for streaming, without any of our keys.

    Args:
        url: its address; redirects are left to the caller.
        judge: whether a network address may be connected to.
        timeout: seconds to connect, and to wait for each piece.
        deadline: time.monotonic() at which the connection is cut off.

    Raises:
        LabelStudioError: no answer, or a refusal.
        ValueError: the host has no address that may be connected to.
    """
    try:
        with (
            limited_session(judge, deadline) as session,
            session.get(url, timeout=timeout, stream=True, allow_redirects=False) as response,
        ):
            if response.status_code >= 400:
                raise LabelStudioError(f"the host answered HTTP {response.status_code}; open the address in a browser")
            yield response
    except AddressRefused as error:
        advice = "no image may come from there"
        if judge is is_public:
            own = urlsplit(url).netloc.rpartition("@")[2]
            advice = f"which is not public; if it is a storage of yours, add {own} to PREMASK_IMAGE_HOSTS"
        raise ValueError(f"{error}, {advice}") from error
    except requests.RequestException as error:
        cause = "in time" if time.monotonic() > deadline else f"({type(error).__name__})"
        raise LabelStudioError(f"the host does not answer {cause}; check the address") from error


def _hang_up(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
