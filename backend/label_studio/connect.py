"""Registering this backend with a project, and saying what Label Studio must allow for it."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backend.errors import ConfigError, LabelStudioError
from backend.label_studio.addresses import LOOPBACK
from backend.label_studio.client import LabelStudio
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import UNTRAINED
from backend.label_studio.readiness import count_accepted, no_model
from backend.label_studio.status import NAME, with_status_label
from backend.settings import web_address
from backend.system.login import Login
from models.errors import brief

TITLE = "premask"  # of a backend that serves no model yet
# Label Studio's states of a backend whose /health or /setup failed: disconnected, error.
BROKEN = ("DI", "ER")


@dataclass(frozen=True)
class Connected:
    """A backend that a project uses.

    Attributes:
        backend_id: Label Studio's id of it.
        project_id: the project.
        created: it was not registered before.
        model_version: what the backend answered to /setup, None if it serves no model yet.
        warnings: what may still be in the way, one sentence each.
    """

    backend_id: int
    project_id: str
    created: bool
    model_version: str | None
    warnings: tuple[str, ...] = ()


def connect(
    client: LabelStudio,
    project_id: str | int,
    backend_url: str,
    progress: Callable[[str], None] = lambda line: None,
    login: Login | None = None,
    *,
    needed: int = 4,
    dashboard: str | None = None,
    status_label: bool = False,
) -> Connected:
    """Register the backend with a project and switch predictions on; done twice it changes nothing.

    Args:
        client: the Label Studio to register with.
        project_id: the project.
        backend_url: the backend's address as Label Studio's own machine or container reaches it.
        progress: called with a line for people at each step.
        login: what the backend asks of its callers; None if it asks nothing.
        needed: accepted tasks that a training needs.
        dashboard: where people open the backend; None for `backend_url`.
        status_label: add a text to the labelling config that tells annotators why a task has no masks.

    Raises:
        LabelStudioError: says which call failed and what to change, or which address is none.
        ConfigError: the labelling config cannot take the text.
    """
    for name, address in (("the backend's", backend_url), ("the dashboard's", dashboard)):
        try:
            _ = address and web_address(address)
        except ValueError as error:
            raise LabelStudioError(
                f"{name} address {brief(address)} cannot be used: {error}",
                remedy="write it as a browser shows it, such as http://127.0.0.1:9090",
            ) from None
    user = client.check()
    progress(f"Label Studio at {client.url} knows the key of {user.get('email') or user.get('username')}")
    project = client.project(project_id)
    progress(f"Project {project_id}: {project.get('title')!r} with {project.get('task_number', 0)} tasks")
    backends = client.ml_backends(project_id)
    registered = next((backend for backend in backends if _same(backend["url"], backend_url)), None)
    if registered is None:
        backend = _create(client, project_id, backend_url, login)
    else:
        backend = _with_login(client, project_id, registered, login)
    if not backend.get("is_interactive"):
        # Smart tools show up only then.
        backend = _changed(client, project_id, backend, login, is_interactive=True)
    if backend.get("state") in BROKEN:
        raise LabelStudioError(_unhealthy(backend_url, str(backend.get("error_message") or "")))
    backend = rename(client, project_id, backend, login)
    if not str(backend.get("description") or "").strip():
        told = description("", dashboard or backend_url, str(project_id))
        backend = _changed(client, project_id, backend, login, description=told)
    progress(f"{'Already registered' if registered else 'Registered'} as {backend['title']!r} at {backend['url']}")
    # The project's model_version is the title of the backend whose predictions annotators start from.
    wanted = {"show_collab_predictions": True, "model_version": backend["title"]}
    changes = {key: value for key, value in wanted.items() if project.get(key) != value}
    if changes:
        client.update_project(project_id, **changes)
    progress("Annotators will start from its predictions")
    if login is not None:
        _let_webhooks_in(client, project_id, backend_url, login)
    if status_label:
        progress(_add_status_label(client, project_id, str(project.get("label_config") or "")))
    warnings = _unfilled(project) + _warnings(client, project_id, backend_url, backends, backend)
    for warning in warnings:
        progress(f"Note: {warning}")
    version = backend.get("model_version")
    if not version or version == UNTRAINED:
        progress(f"{no_model(count_accepted(client, str(project_id)), needed)}.")
    progress(description("", dashboard or backend_url, str(project_id)))
    return Connected(int(backend["id"]), str(project_id), registered is None, version or None, warnings)


def _add_status_label(client: LabelStudio, project_id: str | int, xml: str) -> str:
    """Add the text to a project's config unless it is there; returns a sentence."""
    config = parse_label_config(xml)
    if config.status is not None:
        return "Annotators are told already why a task has no masks"
    first = (*config.region_controls, *config.controls)[0]
    client.update_project(project_id, label_config=with_status_label(xml, first.to_name))
    return f"Annotators are told why a task has no masks: the labelling config has a text named {NAME!r} for it"


def description(said: str, dashboard: str, project: str) -> str:
    """What Label Studio shows of the backend beside its name: the state of the project, and where its dashboard is."""
    page = f"{dashboard.rstrip('/')}/dashboard/projects/{project}"
    return f"{f'{said}. ' if said else ''}Versions, figures and progress: {page}"


def describe(
    client: LabelStudio, project_id: str | int, backend: dict[str, Any], login: Login | None, text: str
) -> dict[str, Any]:
    """Give a registered backend a description, unless it has it; one that people wrote is left alone."""
    told = str(backend.get("description") or "")
    if told == text or (told and "/dashboard/projects/" not in told):
        return backend
    return _changed(client, project_id, backend, login, description=text)


def rename(client: LabelStudio, project_id: str | int, backend: dict[str, Any], login: Login | None) -> dict[str, Any]:
    """Give a registered backend the name of the version it serves.

    Label Studio calls it by a title and shows in a project's settings whose predictions annotators start from: by that
    title, or by a version. It fills the column "Prediction score" only from predictions of the version named there, and
    asks for new predictions only if the backend is named there. So both have to be one name; when a backend's title
    changes, Label Studio changes the project's setting along.

    Args:
        client: the project's Label Studio.
        project_id: the project.
        backend: as Label Studio lists it; its `model_version` is what /setup answered last.
        login: what the backend asks of its callers; None if it asks nothing.

    Returns:
        The backend, as it is now.

    Raises:
        LabelStudioError: Label Studio refused, or cannot be reached.
    """
    version = backend.get("model_version")
    if not version or version == UNTRAINED or version == backend.get("title"):
        return backend
    return _changed(client, project_id, backend, login, title=version)


def unname(
    client: LabelStudio, project_id: str | int, backend: dict[str, Any], login: Login | None, dashboard: str
) -> dict[str, Any]:
    """Take the name of a version from a registered backend that serves none any more."""
    if backend.get("model_version") != UNTRAINED:
        return backend
    backend = describe(client, project_id, backend, login, description("", dashboard, str(project_id)))
    return backend if backend.get("title") == TITLE else _changed(client, project_id, backend, login, title=TITLE)


def _changed(
    client: LabelStudio, project_id: str | int, backend: dict[str, Any], login: Login | None, **settings: Any
) -> dict[str, Any]:
    """A registered backend, some of whose settings are changed."""
    # Label Studio checks a change with the fields of this request alone, so it needs the others again.
    return client.update_ml_backend(
        backend["id"], url=backend["url"], project=int(project_id), **login_fields(login), **settings
    )


def login_fields(login: Login | None) -> dict[str, str]:
    """A login as Label Studio keeps it with a backend."""
    if login is None:
        return {}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": login.user, "basic_auth_pass": login.password}


def _create(client: LabelStudio, project_id: str | int, backend_url: str, login: Login | None) -> dict[str, Any]:
    try:
        return client.create_ml_backend(project_id, backend_url, TITLE, is_interactive=True, **login_fields(login))
    except LabelStudioError as error:
        if error.status == 403 and "reserved" in error.detail:
            raise LabelStudioError(
                f"Label Studio refuses a backend on a private address such as {backend_url}; start Label Studio with "
                "ML_BLOCK_LOCAL_IP=false, and with SSRF_PROTECTION_ENABLED=false so that its webhooks arrive as well",
                error.status,
                error.detail,
            ) from error
        if error.status == 400:
            raise LabelStudioError(_unhealthy(backend_url, error.detail), error.status, error.detail) from error
        raise


def _with_login(
    client: LabelStudio, project_id: str | int, backend: dict[str, Any], login: Login | None
) -> dict[str, Any]:
    """A registered backend, whose login Label Studio is told unless it knows it: of the password it says nothing."""
    if login is None:
        return backend
    told = backend.get("basic_auth_user") == login.user and backend.get("basic_auth_pass_is_set")
    if told and backend.get("state") not in BROKEN:
        return backend
    try:
        return _changed(client, project_id, backend, login)
    except LabelStudioError as error:
        if error.status == 400:
            raise LabelStudioError(_unhealthy(backend["url"], error.detail), error.status, error.detail) from error
        raise


def _let_webhooks_in(client: LabelStudio, project_id: str | int, backend_url: str, login: Login) -> None:
    for hook in client.webhooks(project_id):
        if _same(hook["url"], f"{backend_url.rstrip('/')}/webhook") and hook.get("headers") != login.webhook_headers:
            client.update_webhook(hook["id"], url=hook["url"], headers=login.webhook_headers)


def _unhealthy(backend_url: str, detail: str) -> str:
    url = backend_url.rstrip("/")
    text = (
        f"Label Studio asked {url}/health and {url}/setup and did not get what it needs "
        f"({detail or 'no reason given'}); the backend must run, "
        "and Label Studio's own machine or container must reach it under that address"
    )
    if "401" in detail:
        text += "; it asks for a user and a password: give those that it was started with"
    if urlsplit(backend_url).hostname in LOOPBACK:
        text += "; inside Docker localhost is the container itself: use the backend's service name there"
    return text


def _warnings(
    client: LabelStudio, project_id: str | int, backend_url: str, before: list[dict[str, Any]], backend: dict[str, Any]
) -> tuple[str, ...]:
    found = []
    if before and before[0]["id"] != backend["id"]:
        found.append(
            f"the project's first backend is {before[0]['title']!r} at {before[0]['url']}; Label Studio asks only the "
            "first for batch predictions: remove it in Settings > Model if ours should answer"
        )
    if not any(_same(hook["url"], f"{backend_url.rstrip('/')}/webhook") for hook in client.webhooks(project_id)):
        found.append(
            f"no webhook leads to {backend_url.rstrip('/')}/webhook, so new annotations are not announced; "
            "add it in Settings > Webhooks, or press Start Training when there are enough"
        )
    if _private(backend_url):
        found.append(
            "on a private address Label Studio sends webhooks only with SSRF_PROTECTION_ENABLED=false; "
            "otherwise it drops them without a word"
        )
    return tuple(found)


def _unfilled(project: dict[str, Any]) -> tuple[str, ...]:
    """A sentence for each part of the project's labelling config that no prediction will fill."""
    try:
        return parse_label_config(str(project.get("label_config") or "")).left_out
    except ConfigError as error:
        return (str(error),)


def _private(url: str) -> bool:
    """Whether an address is surely not public: loopback, a private network, or a name without a dot, as in Docker."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host in LOOPBACK or "." not in host


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
