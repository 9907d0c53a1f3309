"""Settings of a Label Studio that can be found out from outside, without changing anything in it.

Some of them show only in how it refuses a request that it would refuse anyway: it judges an address before it finds
that the rest of the request is nonsense. A call that a release does not have is taken for what the release does without
it: it is asked what it can do, never which it is. docs/compatibility.md names the releases that were tried.
"""

import re
from collections.abc import Callable
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.answers import OBJECT, TASKS, checked
from backend.label_studio.client import LabelStudio

PRIVATE = "http://127.0.0.1:1"
NO_SUCH_ACTION = "NO_SUCH_ACTION"
MISSING = (404, 405)  # a call that a release does not have


def release(client: LabelStudio) -> str:
    """Label Studio's version; "unknown" where it does not tell."""
    known = _unless_missing(lambda: client.call("GET", "/api/version/"), {})
    return str(known.get("release", "unknown")) if isinstance(known, dict) else "unknown"


def refuses_private_backends(client: LabelStudio) -> bool:
    """ML_BLOCK_LOCAL_IP: whether backends on private addresses are refused. Asked with a backend of no project."""
    return _refuses(client, "/api/ml/", {"url": PRIVATE})


def refuses_private_webhooks(client: LabelStudio) -> bool:
    """SSRF_PROTECTION_ENABLED: whether webhooks to private addresses are dropped. Asked with one for no action."""
    return _refuses(client, "/api/webhooks/", {"url": PRIVATE, "actions": [NO_SUCH_ACTION]})


def takes_legacy_tokens(client: LabelStudio) -> bool:
    """Whether legacy tokens are taken, such as the one that `/setup` carries.

    An organization can switch them off where there are personal access tokens too; older releases have no other kind.
    """
    path = "/api/jwt/settings"
    known = _unless_missing(lambda: client.call("GET", path), {"legacy_api_tokens_enabled": True})
    return bool(checked(known, OBJECT, f"GET {client.url}{path}").get("legacy_api_tokens_enabled"))


def serves_local_files(client: LabelStudio) -> bool:
    """LOCAL_FILES_SERVING_ENABLED. Asked for a file that no storage has."""
    try:
        client.get_file("/data/local-files/?d=premask-doctor/none")
        return True
    except LabelStudioError as error:
        if error.status not in (400, 403, 404):
            raise
        return error.status != 403


def local_files_root(client: LabelStudio, project_id: str) -> str | None:
    """LOCAL_FILES_DOCUMENT_ROOT, if Label Studio tells. Asked with "/" for a storage, which never will do."""
    try:
        client.call("POST", "/api/storages/localfiles/validate", json={"project": int(project_id), "path": "/"})
    except LabelStudioError as error:
        root = re.search(r'LOCAL_FILES_DOCUMENT_ROOT="([^"]*)"', error.detail)
        return root[1] if root else None
    return None


def any_task(client: LabelStudio, project_id: str) -> dict[str, Any] | None:
    """A task of a project with its data, None if there is none."""
    path = f"/api/tasks?project={int(project_id)}&page_size=1&resolve_uri=false&fields=all"
    tasks: list[dict[str, Any]] = checked(client.call("GET", path), TASKS, f"GET {client.url}/api/tasks")["tasks"]
    return tasks[0] if tasks else None


def _unless_missing(ask: Callable[[], Any], otherwise: Any) -> Any:
    """The answer, or `otherwise` where this release has no such call."""
    try:
        return ask()
    except LabelStudioError as error:
        if error.status not in MISSING:
            raise
        return otherwise


def _refuses(client: LabelStudio, path: str, nonsense: dict[str, Any]) -> bool:
    try:
        client.call("POST", path, json=nonsense)
    except LabelStudioError as error:
        if error.status not in (400, 403):
            raise
        return error.status == 403 and "reserved" in error.detail
    raise LabelStudioError(
        f"Label Studio took {nonsense} at {path}, which it should not have; look there and remove it"
    )
