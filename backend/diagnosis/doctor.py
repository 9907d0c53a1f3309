"""Looks at everything that a backend needs, and says the remedy for what it lacks."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import requests

from backend.diagnosis import checks
from backend.diagnosis.checks import BROKEN, DOUBTFUL, FINE, Check, check
from backend.errors import BackendError
from backend.jobs.queue import JobQueue
from backend.label_studio import inspection
from backend.label_studio.addresses import LOOPBACK
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import BROKEN as BROKEN_STATES
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.readiness import count_accepted, no_model
from backend.label_studio.task_images import task_images
from backend.settings import Settings
from backend.system.loops import loop_reports
from backend.system.ports import check_port, url_of
from backend.wiring import Parts
from models.checkpoint import check_weights, read_card

LABEL_STUDIO, KEY = "Label Studio", "Label Studio's key"
ADAPTER = "PremaskModel"  # in backend.entrypoints.label_studio_ml, as that server names it at /health
Look = tuple[str, Callable[[], Check | str]]


def examine(settings: Settings, parts: Parts, project: str | None, *, fetch: bool = False) -> Iterator[Check]:
    """Every check in turn, none of which changes anything.

    Args:
        settings: of the backend that is looked at.
        parts: made from them.
        project: a Label Studio project to look at too.
        fetch: compare the checksums of served versions that are in a bucket, too, which fetches them.
    """
    yield checks.data_folder(settings.data_dir)
    for name, look in _here(settings, parts, fetch):
        yield check(name, look)
    for name, look in _label_studio(settings, parts, project):
        looked = check(name, look)
        yield looked
        if looked.state == BROKEN and name in (LABEL_STUDIO, KEY):
            return  # all that follows would fail for the same reason


def _here(settings: Settings, parts: Parts, fetch: bool) -> Iterator[Look]:
    yield "database", lambda: checks.database(parts.database)
    yield "store of versions", lambda: checks.store(parts.database, parts.registry.store)
    yield "queue", lambda: checks.queue(JobQueue(parts.store, parts.leases, parts.queues))
    yield "loops over projects", lambda: checks.loops(loop_reports(settings.loops_dir))
    yield "starter weights", lambda: _starter(settings.starter)
    for known in parts.registry.projects():
        yield f"versions of project {known}", partial(_served, parts, known, fetch)
    yield "device", lambda: _device(settings.device)
    yield "server", lambda: _server(settings)
    yield "password", lambda: _password(settings)


def _starter(folder: Path | None) -> Check | str:
    if folder is None:
        return Check("starter weights", FINE, "none wanted: projects get masks after their first training")
    return f"{check_weights(folder).name}, checksums right"


def _served(parts: Parts, project: str, fetch: bool) -> str:
    current = parts.registry.current(project)
    if current is None:
        count = len(parts.registry.versions(project))
        return f"{count} {'version' if count == 1 else 'versions'}, none served"
    if parts.registry.store.folder is None and not fetch:
        current.check()
        return f"{current.version} is served, {len(current.files)} files in the store, sizes right"
    check_weights(current.directory)
    return f"{current.version} is served, checksums right"


def _device(wanted: str) -> Check | str:
    import torch

    if torch.cuda.is_available():
        index = torch.device("cuda" if wanted in ("cpu", "auto") else wanted).index or 0
        if index >= torch.cuda.device_count():
            remedy = "choose one that is there by PREMASK_DEVICE, or auto"
            return Check("device", BROKEN, f"{wanted} is wanted, of {torch.cuda.device_count()} GPUs", remedy)
        free, total = torch.cuda.mem_get_info(index)
        gpu = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if wanted == "cpu":
            return Check("device", DOUBTFUL, f"cpu, while there is a GPU: {gpu}", "set PREMASK_DEVICE=auto to use it")
        return gpu
    if wanted.startswith("cuda"):
        remedy = "set PREMASK_DEVICE=cpu, or install the driver; in Docker start with --gpus all"
        return Check("device", BROKEN, f"{wanted} is wanted and torch {torch.__version__} finds no GPU", remedy)
    return f"cpu, {torch.get_num_threads()} threads a forward pass"


def _server(settings: Settings) -> Check | str:
    url = url_of(settings.host, settings.port)
    try:
        answer = requests.get(f"{url}/health", timeout=5).json()
    except (requests.RequestException, ValueError):
        answer = None
    if isinstance(answer, dict) and answer.get("name") == "premask":
        return f"answers at {url}"
    if isinstance(answer, dict) and "model_class" in answer:
        found = f"label-studio-ml answers at {url} with the model {answer['model_class']}"
        if answer["model_class"] == ADAPTER:
            return found
        remedy = "fine if that class is premask's; if not, stop it or choose another port by PREMASK_PORT"
        return Check("server", DOUBTFUL, found, remedy)
    check_port(settings.host, settings.port)
    return f"not running; {settings.host}:{settings.port} is free for it"


def _password(settings: Settings) -> Check | str:
    if settings.basic_auth_user is None and settings.host not in LOOPBACK:
        remedy = "set PREMASK_BASIC_AUTH_USER and PREMASK_BASIC_AUTH_PASSWORD, then run `premask connect` again"
        return Check("password", DOUBTFUL, f"none, although others reach {settings.host}", remedy)
    return "none; only this machine reaches the server" if settings.basic_auth_user is None else "asked for"


def _label_studio(settings: Settings, parts: Parts, project: str | None) -> Iterator[Look]:
    name = LABEL_STUDIO
    if settings.label_studio_url is None:
        found = "LABEL_STUDIO_URL is not set: each project's address and token are taken from what it says of itself"
        remedy = (
            "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: that address often is localhost, that token switched off"
        )
        yield name, lambda: Check(name, DOUBTFUL, found, remedy)
    try:
        client = parts.connections.client(project or "")
    except BackendError as error:
        if settings.label_studio_url is not None or project is not None:
            broken = Check(name, BROKEN, error.cause, error.remedy)
            yield name, lambda: broken
        return
    yield name, lambda: f"{inspection.release(client)} at {client.url}"
    yield KEY, lambda: _key(client)
    yield "legacy tokens", lambda: _legacy(client, settings)
    yield "backends on private addresses", lambda: _private_backends(client)
    yield "webhooks to private addresses", lambda: _private_webhooks(client)
    yield "local files", lambda: _local_files(client, project)
    if project is not None:
        yield f"project {project}", lambda: _project(client, project)
        yield "model of the project", lambda: _model(settings, parts, client, project)
        yield "backend in Label Studio", lambda: _registered(client, project)
        yield "webhook in Label Studio", lambda: _webhook(client, project)
        yield "an image of a task", lambda: _image(parts, client, project)


def _key(client: LabelStudio) -> str:
    user = client.check()
    return f"{client.key_kind} of {user.get('email') or user.get('username')}"


def _legacy(client: LabelStudio, settings: Settings) -> Check | str:
    if inspection.takes_legacy_tokens(client):
        return "on"
    if settings.label_studio_api_key is not None:
        return "off; the configured key is used instead"
    remedy = (
        "set LABEL_STUDIO_API_KEY to a personal access token, or switch them on in Organization > API Tokens Settings"
    )
    return Check("legacy tokens", BROKEN, "off, and what Label Studio says of itself in /setup holds one", remedy)


def _private_backends(client: LabelStudio) -> Check | str:
    if not inspection.refuses_private_backends(client):
        return "taken"
    remedy = "start Label Studio with ML_BLOCK_LOCAL_IP=false, unless this backend has a public address"
    return Check("backends on private addresses", DOUBTFUL, "refused", remedy)


def _private_webhooks(client: LabelStudio) -> Check | str:
    if not inspection.refuses_private_webhooks(client):
        return "sent"
    remedy = "start Label Studio with SSRF_PROTECTION_ENABLED=false, unless this backend has a public address"
    return Check("webhooks to private addresses", DOUBTFUL, "dropped without a word", remedy)


def _local_files(client: LabelStudio, project: str | None) -> Check | str:
    if not inspection.serves_local_files(client):
        return "not served; fine unless tasks name files below /data/local-files"
    root = inspection.local_files_root(client, project) if project is not None else None
    return f"served from below {root}, never from it itself" if root else "served"


def _project(client: LabelStudio, project: str) -> Check | str:
    found = client.project(project)
    config = parse_label_config(str(found.get("label_config", "")))
    return (
        f"{found.get('title')!r}, {found.get('task_number', 0)} tasks, classes: {', '.join(config.classes) or 'none'}"
    )


def _model(settings: Settings, parts: Parts, client: LabelStudio, project: str) -> Check | str:
    config = parse_label_config(str(client.project(project).get("label_config", "")))
    current = parts.registry.current(project)
    cards = [current.card] if current else []
    cards += [read_card(settings.starter)] if settings.starter is not None else []
    known = next((card for card in cards if set(card.classes) & set(config.classes)), None)
    if known is not None:
        missing = [label for label in config.classes if label not in known.classes]
        return f"{known.name}" + (f", which does not know {', '.join(missing)}" if missing else "")
    accepted, waiting = count_accepted(client, project), parts.registry.waiting(project, config.classes)
    remedy = "accept some more" if accepted < settings.min_accepted else "press Start Training"
    if waiting is not None:
        remedy = (
            "look at its masks on the dashboard and promote it there, or by "
            f"`premask versions promote --project {project} {waiting.version}`"
        )
    found = no_model(accepted, settings.min_accepted, waiting.version if waiting is not None else "")
    return Check("model of the project", DOUBTFUL, found, remedy)


def _registered(client: LabelStudio, project: str) -> Check | str:
    backends = client.ml_backends(project)
    if not backends:
        return Check("backend in Label Studio", BROKEN, "none", f"run `premask connect --project {project}`")
    first = backends[0]
    found = f"{first['title']!r} at {first['url']}"
    if first.get("state") in BROKEN_STATES:
        remedy = (
            "Label Studio's machine must reach that address; a password may have changed: `premask connect` tells it"
        )
        return Check("backend in Label Studio", BROKEN, f"{found}: {first.get('error_message')}", remedy)
    return f"{found} serves {first.get('model_version')}"


def _webhook(client: LabelStudio, project: str) -> Check | str:
    wanted = {f"{backend['url'].rstrip('/')}/webhook" for backend in client.ml_backends(project)}
    if any(hook["url"] in wanted for hook in client.webhooks(project)):
        return "there"
    remedy = "without one, new annotations are not announced: add it in Settings > Webhooks"
    return Check(
        "webhook in Label Studio", DOUBTFUL, f"none leads to {' or '.join(sorted(wanted)) or 'a backend'}", remedy
    )


def _image(parts: Parts, client: LabelStudio, project: str) -> Check | str:
    task: dict[str, Any] | None = inspection.any_task(client, project)
    if task is None:
        return Check("an image of a task", DOUBTFUL, "the project has no tasks", "import some")
    config = parse_label_config(str(client.project(project).get("label_config", "")))
    height, width, _ = parts.connections.images(project).load(task, task_images(task, config)[0].path).shape
    return f"task {task['id']}: {width} x {height} pixels"
