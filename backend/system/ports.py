"""Addresses on which a server of this machine listens, or is to listen."""

import socket

from backend.errors import ServeError


def url_of(host: str, port: int) -> str:
    """The address at which this machine reaches a server that listens on `host` and `port`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{port}"


def obstacle(host: str, port: int) -> str | None:
    """The reason why no server can listen on `host` and `port`, None if one can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gunicorn will: connections of an earlier run that still fade away are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_port(host: str, port: int) -> None:
    """Raises ServeError if no server can listen on `host` and `port`."""
    if (reason := obstacle(host, port)) is not None:
        raise ServeError(
            f"cannot listen on {host}:{port}: {reason}",
            "stop what listens there, or choose another port with --port and another address with --host",
        )
