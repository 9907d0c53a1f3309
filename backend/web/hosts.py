"""Under which names a server without a password answers.

Any page on the web may have its own name lead to an address of the reader's network (DNS rebinding); the browser then
takes us for a part of that page, which may read and change everything. The name is what gives it away: it is in the
Host header. An address has no name that could be changed, and names without a dot, or of domains that no one can
register, lead to machines nearby: services of Compose and Kubernetes are called by these.
"""

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address

from werkzeug.exceptions import SecurityError
from werkzeug.sansio.utils import host_is_trusted

ANY = "*"
# Names below these are never registered: RFC 6761, ICANN's .internal (Docker's host.docker.internal), and Kubernetes'.
NEARBY = (".localhost", ".internal", ".svc", ".svc.cluster.local")
SHAPE = re.compile(r"(?P<name>[^\[\]:/@\s]+|\[[^\[\]/@\s]+\])(:[0-9]{1,5})?", re.ASCII)


class Hosts:
    """Decides whether a request's Host is one of ours.

    Args:
        named: names besides those that need none: "annotate.example.org", ".example.org" for all below it too, or "*"
            for any.
    """

    def __init__(self, named: Collection[str] = ()) -> None:
        machine = socket.gethostname()
        self._any = ANY in named
        self._named = [name.removeprefix(ANY) for name in named] + [machine, f"{machine}.local"]

    def accepts(self, host: str) -> bool:
        """Whether a request with this Host header, with or without a port, may be answered."""
        if self._any:
            return True
        if (found := SHAPE.fullmatch(host)) is None:
            return False
        name = found["name"].lower().removesuffix(".")
        if name.startswith("[") or _is_address(name):
            return _is_address(name.strip("[]"))
        return "." not in name or name.endswith(NEARBY) or host_is_trusted(name, self._named)

    def check(self, host: str | None) -> None:
        """Refuse a request by its Host header; one without it is of no browser.

        Raises:
            SecurityError: 400, with what to do.
        """
        if host and not self.accepts(host):
            raise SecurityError(
                f"this server does not answer as {host[:100]!r}, so that no page of another site can pass for it; add "
                "that name to PREMASK_ALLOWED_HOSTS, or set a user and a password"
            )


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
