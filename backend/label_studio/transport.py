"""Requests to Label Studio: addresses, keys, time-outs and what a refusal means.

Plain requests instead of label-studio-sdk's client: that one is on httpx, which ignores REQUESTS_CA_BUNDLE (private
certificates), reads answers into models that fail when a server is newer or older, cannot bound the size of a
download, and waits for a single time-out in all.
"""

import base64
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from backend.errors import LabelStudioError
from backend.label_studio.addresses import (
    LOOPBACK,
    AddressRefused,
    is_host,
    limited_session,
)
from backend.label_studio.token import Token

PORTS = {"http": 80, "https": 443}
# Paths that serve files; a token goes to no other path that task data names.
FILE_PATHS = ("/data/", "/storage-data/", "/tasks/")
CHUNK = 1 << 16
MEGABYTE = 1 << 20
MAX_ANSWER = 512 * MEGABYTE  # of JSON, unless a call says otherwise
WHOLE = 10  # times as long as one wait may a call take in all, however steadily its answer trickles


class Transport:
    """One Label Studio server and the key to it. Safe to share between threads; `LabelStudio` adds the calls.

    Args:
        url: its address, with the path it is mounted under, if any: "https://host/label-studio".
        api_key: legacy token or personal access token.
        timeout: seconds to connect, and to wait for each piece of an answer.

    Raises:
        LabelStudioError: `url` is not an http(s) address.
    """

    def __init__(self, url: str, api_key: str, timeout: tuple[float, float] = (5.0, 60.0)) -> None:
        parts = _parts_of(url.strip())
        if parts is None or parts.scheme not in PORTS or not parts.hostname or _port(parts) is None:
            raise LabelStudioError(f"Label Studio's address should look like http://host:8080, got {url[:200]!r}")
        if parts.username is not None:
            raise LabelStudioError(
                "Label Studio's address holds a user name; give its key apart from it, as the API key"
            )
        self.url = url.strip().rstrip("/")
        self._base = parts.path.rstrip("/")
        self._root = self.url.removesuffix(self._base)
        self.timeout = timeout
        self._token = Token(api_key, self._access_token)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self._token.kind})"

    @property
    def key_kind(self) -> str:
        """Which of Label Studio's two kinds of token the key is, in its words."""
        return self._token.kind

    def own_path(self, address: str) -> str | None:
        """The path on this server that an address means, None if the address is another server's.

        Args:
            address: as in task data: a path, with or without the path Label Studio is mounted under, or a URL.
                Label Studio writes the address it knows itself by, which is often localhost: that counts as this
                server too when the port is the same. The file is fetched from `url` in any case.
        """
        parts = _parts_of(address)
        if parts is None:
            return None
        if not parts.scheme and not parts.netloc:
            path = address if address.startswith("/") else f"/{address}"
        else:
            own = urlsplit(self.url)
            if parts.username or parts.scheme not in PORTS or _port(parts) != _port(own):
                return None
            same = parts.hostname == own.hostname and parts.scheme == own.scheme
            if not same and parts.hostname not in LOOPBACK:
                return None
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            if not path.startswith(f"{self._base}/"):
                return None  # another application on the same host
        return path.removeprefix(self._base) if path.startswith(f"{self._base}/") else path

    def get_file(self, path: str, max_bytes: int = MAX_ANSWER, deadline: float | None = None) -> requests.Response:
        """A file of this server, whole; redirects are left to the caller.

        Args:
            path: as `own_path` returns it. The token is sent only to paths that serve files.
            max_bytes: more is an error.
            deadline: time.monotonic() at which it is given up, however steadily it trickles; None for that of any call.

        Raises:
            LabelStudioError: no answer, or a refusal; the file is too large, too slow, or breaks off.
        """
        steps = unquote(path.partition("?")[0]).split("/")
        authorized = path.startswith(FILE_PATHS) and ".." not in steps
        try:
            return self._send(
                "GET", path, authorized=authorized, max_bytes=max_bytes, deadline=deadline, what="the file"
            )
        except LabelStudioError as error:
            if error.status is None or error.status < 400 or error.status == 401:
                raise
            cause = f"HTTP {error.status} ({error.detail or 'no reason given'})"
            # Missing uploads are a 500 in Label Studio, files outside every storage a 404.
            raise LabelStudioError(
                f"Label Studio answered {cause}; if the editor does not show it either, import it again, or add a "
                "Local Files storage that holds its folder to the project",
                error.status,
                error.detail,
            ) from error

    def presign(self, task_id: int | str, uri: str) -> str:
        """The path on this server that leads to a cloud storage object of a task, such as s3://bucket/key."""
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return f"/tasks/{quote(str(task_id))}/presign/?fileuri={encoded}"

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call the API.

        Args:
            method: HTTP method.
            path: from the server's root, with the query.
            options: as for `requests.request`, and `max_bytes` of the answer.

        Returns:
            The JSON of the answer, {} for an empty one.

        Raises:
            LabelStudioError: no answer, a refusal, or no JSON.
        """
        response = self._send(method, path, **options)
        if response.is_redirect:
            raise self._sent_on(method, path, response)
        try:
            return response.json() if response.content else {}
        except (ValueError, RecursionError) as error:  # the latter for ten thousand brackets
            raise LabelStudioError(
                f"{method} {self.url}{path} answered with something else than JSON",
                remedy="is this Label Studio's address?",
            ) from error

    def _send(self, method: str, path: str, *, authorized: bool = True, **options: Any) -> requests.Response:
        """One request, repeated once with a fresh access token if that was refused."""
        header = self._token.header() if authorized else ""
        response = self._request(method, path, header, options)
        if response.status_code == 401 and authorized and self._token.renew(header):
            response.close()
            response = self._request(method, path, self._token.header(), options)
        if response.status_code >= 400:
            with response:
                raise self._refusal(method, path, response)
        return response

    def _request(self, method: str, path: str, header: str, options: Mapping[str, Any]) -> requests.Response:
        """One request. Redirects are never followed: a key, in a header or a body, goes to the address it is for."""
        headers = {"Authorization": header} if header else {}
        asked: dict[str, Any] = {"timeout": self.timeout, **options, "headers": headers, "allow_redirects": False}
        most, what = asked.pop("max_bytes", MAX_ANSWER), asked.pop("what", "the answer")
        deadline = asked.pop("deadline", None) or time.monotonic() + WHOLE * sum(asked["timeout"])
        try:
            # A connection of its own: only such a one can be cut off.
            with (
                limited_session(is_host, deadline) as session,
                session.request(method, self.url + path, stream=True, **asked) as response,
            ):
                response._content = read_bounded(response, most, deadline, what)
                return response
        except LabelStudioError as error:
            raise LabelStudioError(f"{method} {self.url}{path.partition('?')[0]}: {error}") from error
        except requests.exceptions.SSLError as error:
            raise LabelStudioError(
                f"the certificate of {self.url} is not trusted: {error}",
                remedy="set REQUESTS_CA_BUNDLE to the file with your authority's certificate",
            ) from error
        except AddressRefused as error:
            raise LabelStudioError(f"{error}, where no Label Studio can be", remedy="check LABEL_STUDIO_URL") from error
        except requests.Timeout as error:
            raise LabelStudioError(
                f"{method} {self.url}{path} got no answer in time", remedy="try again later"
            ) from error
        except requests.RequestException as error:
            if time.monotonic() > deadline:  # cut off
                raise LabelStudioError(
                    f"{method} {self.url}{path.partition('?')[0]} got no answer in time", remedy="try again later"
                ) from error
            raise LabelStudioError(
                f"Label Studio cannot be reached at {self.url}: {_cause(error)}",
                remedy="check LABEL_STUDIO_URL, and inside Docker use the service's name instead of localhost",
            ) from error
        except ValueError as error:  # an address, a key or a header of the answer that cannot be written or read
            raise LabelStudioError(
                f"{method} {self.url}{path.partition('?')[0]} cannot be asked: {error}",
                remedy="check LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for signs that do not belong there",
            ) from error

    def _access_token(self, personal_token: str) -> str:
        path = "/api/token/refresh"
        response = self._request("POST", path, "", {"json": {"refresh": personal_token}})
        if response.is_redirect:
            raise self._sent_on("POST", path, response)
        if response.status_code != 200 or "access" not in (answer := _json(response)):
            raise LabelStudioError(
                f"{self.url} refused the personal access token (HTTP {response.status_code})",
                response.status_code,
                remedy="it is revoked, expired or of another server: create one in Account & Settings > "
                "Personal Access Token",
            )
        return str(answer["access"])

    def _sent_on(self, method: str, path: str, response: requests.Response) -> LabelStudioError:
        return LabelStudioError(
            f"{method} {self.url}{path.partition('?')[0]} is sent on elsewhere",
            response.status_code,
            remedy=f"set LABEL_STUDIO_URL to the address that begins with {_origin(response)}",
        )

    def _refusal(self, method: str, path: str, response: requests.Response) -> LabelStudioError:
        status, detail = response.status_code, _detail(response)
        call = f"{method} {self.url}{path.partition('?')[0]}"
        if status == 401:
            remedy = (
                "create a new one in Account & Settings > Personal Access Token"
                if self._token.personal
                else "it is wrong, or legacy tokens are off (the default): switch them on in Organization > API Tokens "
                "Settings, or use a personal access token"
            )
            text = f"{call}: Label Studio refused the {self._token.kind} ({detail or 'HTTP 401'})"
        elif status == 403:
            text, remedy = f"{call}: forbidden ({detail or 'HTTP 403'})", "the key's user needs access to that project"
        elif status == 404:
            text, remedy = f"{call}: not found", "check the id and that the key's user can see it"
        elif status == 413:
            text = f"{call}: HTTP 413, the request is too large for it or for a proxy before it"
            remedy = "let that take more, in nginx by client_max_body_size"
        else:
            text, remedy = f"{call}: HTTP {status} ({detail or 'no reason given'})", "Label Studio's log says more"
        return LabelStudioError(text, status, detail, remedy)


def read_bounded(response: requests.Response, max_bytes: int, deadline: float, what: str = "the file") -> bytes:
    """The body of a streamed response.

    Args:
        response: opened with stream=True.
        max_bytes: more is an error.
        deadline: time.monotonic() after which it is given up, however steadily it trickles.
        what: it is, for the error.

    Raises:
        LabelStudioError: it is too large, too slow, or breaks off.
    """
    body, late = bytearray(), LabelStudioError(f"{what} did not arrive in time; check the connection's speed")
    large = LabelStudioError(f"{what} is larger than {max_bytes / MEGABYTE:g} MiB; make it smaller")
    if (said := response.headers.get("Content-Length", "")).isdecimal() and int(said[:18]) > max_bytes:
        raise large
    try:
        # Not `iter_content`: that one waits until a chunk is full, and a server may trickle.
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            body += chunk
            if len(body) > max_bytes:
                raise large
            if time.monotonic() > deadline:
                raise late
    except (HTTPError, OSError) as error:
        if time.monotonic() <= deadline:
            raise LabelStudioError(f"{what} broke off: {_cause(error)}; try again") from error
    if time.monotonic() > deadline:
        raise late  # a connection cut off at the deadline looks like the end of the file, or like an error
    return bytes(body)


def _parts_of(address: str) -> SplitResult | None:
    """The parts of an address, None of one that is malformed."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _origin(response: requests.Response) -> str:
    try:
        target = urlsplit(urljoin(response.url, response.headers["Location"]))
    except ValueError:
        return "its own host: what it names is no address"
    return f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"


def _detail(response: requests.Response) -> str:
    """Label Studio's own words about a refusal, one line."""
    answer = _json(response)
    words = answer.get("validation_errors") or answer.get("detail") or answer.get("error") or ""
    if isinstance(words, dict):
        words = "; ".join(
            str(text) for texts in words.values() for text in (texts if isinstance(texts, list) else [texts])
        )
    return " ".join(re.sub("<[^>]*>", "", str(words)).split())[:300]


def _cause(error: BaseException) -> str:
    """The innermost reason in a chain such as MaxRetryError(NewConnectionError(...))."""
    while (inner := getattr(error, "reason", None) or (error.args[0] if error.args else None)) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(error).rpartition("object at ")[2].partition(": ")[2] or str(error)
