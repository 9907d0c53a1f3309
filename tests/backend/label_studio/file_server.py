"""A host that is not Label Studio: it serves files, redirects, and remembers who asked how."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, redirect, request

from tests.backend.fake_label_studio import serving


@dataclass
class FileServer:
    """The files that it serves, and to whom.

    Attributes:
        url: its address.
        files: path -> contents.
        redirects: path -> address to go to instead.
        compressed: paths whose contents are sent with Content-Encoding: gzip.
        authorizations: the Authorization header of every request, "" where there was none.
        hosts: the host that every request named.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    compressed: set[str] = field(default_factory=set)
    authorizations: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A file server on a free port of this machine."""
    server, app = FileServer(), Flask("file-server")

    @app.get("/<path:path>")
    def file(path: str) -> Any:
        server.authorizations.append(request.headers.get("Authorization", ""))
        server.hosts.append(request.host)
        if path in server.redirects:
            return redirect(server.redirects[path])
        if path in server.compressed:
            return Response(gzip.compress(server.files[path]), headers={"Content-Encoding": "gzip"})
        return Response(server.files.get(path, b""), status=200 if path in server.files else 404)

    with serving(app) as server.url:
        yield server
