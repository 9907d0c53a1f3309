"""A task's image as an array, wherever the task says it is."""

import re
import time
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from itertools import islice
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urljoin, urlsplit

from backend.errors import ImageError, LabelStudioError
from backend.label_studio.addresses import LOOPBACK, Judge, is_host, is_other_host, is_public, opened_elsewhere
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_data import CLOUD, address_at, storage_key
from backend.label_studio.transport import MEGABYTE, read_bounded
from backend.system.metrics import STAGE_SECONDS
from models.data.bounded import decode_bounded
from models.data.decoding import RgbImage
from models.errors import brief

MAX_REDIRECTS = 5
MAX_KEYS = 20  # of a task, named where its image is not among them
# Two parsers may find two hosts in http://one\@two/: the one that is judged and the one that is connected to.
AMBIGUOUS = re.compile(r"[\\\x00-\x1f\x7f]")


class ImageLoader:
    """Fetches and decodes the images of tasks. Safe to share between threads.

    Uploads, local files and cloud storages are read through Label Studio, which holds the rights to them. Anything
    else must be on a host that the operator has allowed: task data is written by people who may import tasks, and a
    backend usually stands in a network that they cannot reach themselves.

    Args:
        client: the Label Studio that sent the tasks; None if there is no key to it.
        allowed_hosts: other hosts to fetch from, without a token: "images.example.com" or "10.0.0.5:8000".
        max_bytes: largest file.
        max_pixels: largest image.
        timeout: seconds to connect, and to wait for each piece of a file.
        total_seconds: seconds for a whole file.
    """

    def __init__(
        self,
        client: LabelStudio | None,
        *,
        allowed_hosts: Collection[str] = (),
        max_bytes: int = 64 * MEGABYTE,
        max_pixels: int = 64_000_000,
        timeout: tuple[float, float] = (5.0, 20.0),
        total_seconds: float = 60.0,
    ) -> None:
        self.client = client
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self._timeout, self._total_seconds = timeout, total_seconds

    @STAGE_SECONDS.labels("fetch").time()
    def load(self, task: Mapping[str, Any], image_key: str) -> RgbImage:
        """The image of a task.

        Args:
            task: as in a request or an export: "id" and "data".
            image_key: key of `task["data"]` that holds the address.

        Returns:
            Array of shape (H, W, 3), uint8, RGB, turned as the editor shows it.

        Raises:
            ImageError: names the task, the address, the cause and what to do.
        """
        address = image_address(task, image_key)
        try:
            return decode_bounded(self._fetch(address, task.get("id")), self.max_pixels)
        except (LabelStudioError, ValueError) as error:
            raise ImageError(f"task {brief(task.get('id'))}: image {shown(address)}: {error}") from error

    def _fetch(self, address: str, task_id: Any) -> bytes:
        """The file at an address.

        Raises:
            LabelStudioError: it cannot be fetched.
            ValueError: it may not be fetched.
        """
        deadline = time.monotonic() + self._total_seconds
        if storage_key(address) is not None:
            address = self._server().presign(task_id, address)
        sent_by_server = False
        # Redirects are followed by hand, so that each hop is judged like the first address.
        for _ in range(MAX_REDIRECTS + 1):
            if AMBIGUOUS.search(address):
                raise ValueError("it holds a backslash or a control character; write it as a browser shows it")
            parts = urlsplit(address)
            path = self._own_path(address, parts)
            if path is not None and _leads_out(path):
                raise ValueError("it leads out of its folder by '..'; give the path itself")
            if path is not None:
                response = self._server().get_file(path, self.max_bytes, deadline)
                if not response.is_redirect:
                    return response.content
            else:
                judge = self._judge(parts, sent_by_server)
                with opened_elsewhere(address, judge, self._timeout, deadline) as response:
                    if not response.is_redirect:
                        return read_bounded(response, self.max_bytes, deadline)
            sent_by_server = path is not None
            address = urljoin(response.url, response.headers["Location"])
        raise ValueError(f"it redirects more than {MAX_REDIRECTS} times; give the final address")

    def _server(self) -> LabelStudio:
        if self.client is None:
            raise ValueError(
                "it is on Label Studio, but there is no key to it; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        return self.client

    def _own_path(self, address: str, parts: SplitResult) -> str | None:
        if self.client is not None:
            return self.client.own_path(address)
        return address if not parts.scheme and not parts.netloc else None

    def _allowed(self, parts: SplitResult) -> bool:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        return bool(self.allowed_hosts & {parts.hostname, parts.netloc.rpartition("@")[2].lower()})

    def _judge(self, parts: SplitResult, sent_by_server: bool) -> Judge:
        """Which network addresses a host outside Label Studio may have.

        Raises:
            ValueError: nothing may be fetched from it.
        """
        if self._allowed(parts):
            # A machine that is allowed by name may be in the same network, but it is not this one.
            return is_host if _names_loopback(parts.hostname or "") else is_other_host
        # Label Studio sends us to cloud storages by presigned addresses. People who configure those in a project
        # could name any host: one that the public cannot reach has to be allowed here too.
        if sent_by_server and parts.scheme in ("http", "https") and parts.hostname:
            return is_public
        raise ValueError(self._refusal(parts))

    def _refusal(self, parts: SplitResult) -> str:
        if parts.scheme == "data":
            return "it is written into the task itself (data:), which is not read; import it as a file or an address"
        if parts.scheme not in ("http", "https"):
            return (
                f"addresses that begin with {parts.scheme}: are not read; use an upload, local files, http(s) or "
                f"one of {', '.join(f'{scheme}://' for scheme in CLOUD)}"
            )
        if parts.hostname in LOOPBACK and self.client is not None:
            return (
                f"it is on {parts.hostname} where this backend runs; if Label Studio means itself, start it with "
                f"LABEL_STUDIO_HOST={self.client.url}"
            )
        return (
            f"host {parts.hostname} is neither Label Studio's nor allowed; if it can be trusted, "
            "add it to the allowed image hosts (PREMASK_IMAGE_HOSTS)"
        )


def _names_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def _leads_out(path: str) -> bool:
    """Whether a path of Label Studio, or the path of a local file in its query, climbs up."""
    parts = urlsplit(path)
    steps = [
        *unquote(parts.path).split("/"),
        *(step for d in parse_qs(parts.query).get("d", []) for step in d.split("/")),
    ]
    return ".." in steps


def image_address(task: Mapping[str, Any], image_key: str) -> str:
    """The address of a task's image.

    Args:
        task: "id" and "data".
        image_key: key of `task["data"]`, or a path into it (see `field_of`).

    Raises:
        ImageError: the task has no such key, or something else than an address under it.
    """
    data = task.get("data")
    value = address_at(data, image_key)
    if not isinstance(value, str) or not value.strip():
        fields = data if isinstance(data, Mapping) else {}
        keys = f"its fields are {', '.join(map(brief, islice(fields, MAX_KEYS)))}" if fields else "it has no fields"
        more = f" and {len(fields) - MAX_KEYS} more" if len(fields) > MAX_KEYS else ""
        seen = "" if value is None else f" but {brief(value) if isinstance(value, str) else type(value).__name__}"
        raise ImageError(
            f"task {brief(task.get('id'))}: no image address is under {brief(image_key)} of its data{seen}; "
            f"{keys}{more}; the <Image> of the labelling config must name the right column"
        )
    return value.strip()


def shown(address: str) -> str:
    """An address for people: without passwords, signatures or a megabyte of data."""
    if storage_key(address) is not None:
        return address[:200]
    try:
        parts = urlsplit(address)
    except ValueError:
        return "with a malformed address"
    if parts.scheme == "data":
        return "data:…"
    host = parts.netloc.rpartition("@")[2]
    # Local files are named in the query; anything else there may be a signature.
    local = parse_qs(parts.query).get("d") if parts.path.endswith("/local-files/") else None
    query = f"?d={local[0]}" if local else ("?…" if parts.query else "")
    scheme = f"{parts.scheme}://" if parts.scheme else ("//" if host else "")
    return f"{scheme}{host}{parts.path}{query}"[:200]
