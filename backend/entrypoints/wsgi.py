"""The application that gunicorn runs, as the environment describes it.

`gunicorn -c backend/entrypoints/gunicorn.conf.py`.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from flask import Flask
from gunicorn.errors import AppImportError

from backend.app import create_app
from backend.database.vault import Vault
from backend.diagnosis import checks
from backend.diagnosis.checks import BROKEN, Check
from backend.errors import BackendError
from backend.jobs.outlook import Outlooks
from backend.label_studio.addresses import LOOPBACK
from backend.label_studio.naming import Naming
from backend.settings import Settings
from backend.system.login import Login
from backend.system.logs import configure_logging
from backend.system.loops import loop_reports
from backend.wiring import Core, assemble_core, outlooks_of, starter
from models.checkpoint import read_card
from models.errors import CheckpointError
from models.families import Model
from models.phantom import render_phantom

logger = logging.getLogger(__name__)


def build_app(load: Callable[[str], Callable[[Path], Model]] | None = None) -> Flask:
    """The application; its models are loaded in the background from now on.

    Args:
        load: gives the loader of models on a device; None for that of the settings.
    """
    try:
        settings = Settings.from_environ(os.environ)
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        core, login = assemble_core(settings, load), login_of(settings)
    except BackendError as error:
        raise AppImportError(f"premask: {error}") from error  # which gunicorn prints instead of a traceback
    outlooks = outlooks_of(settings, core.parts, core.serving)
    naming_of(settings, core, login, outlooks).watch()
    core.serving.warm_up([render_phantom(0).image])
    return app_of(settings, core, login, outlooks)


def app_of(settings: Settings, core: Core, login: Login | None, outlooks: Outlooks | None = None) -> Flask:
    """The application over parts that are there already."""
    return create_app(
        serving=core.serving,
        responder=core.responder,
        prompts=core.prompts,
        jobs=core.jobs,
        automatic=core.parts.automatic,
        registry=core.parts.registry,
        credentials=core.parts.credentials,
        reviews=core.parts.reviews,
        outlooks=outlooks,
        login=login,
        allowed_hosts=names_of(settings, login),
        form_key=Vault(settings.data_dir, settings.secret_key).key_for("forms of the dashboard"),
        ready=lambda: ready(settings, core),
        loops=lambda: loop_reports(settings.loops_dir),
        minutes_per_mask=settings.minutes_per_mask,
        max_request_bytes=settings.max_request_mb << 20,
        # Some threads stay free for /health, /setup and pages while predictions run.
        max_predicts=max(settings.threads * 4 // 5, 1),
    )


def names_of(settings: Settings, login: Login | None) -> tuple[str, ...]:
    """The names under which the server answers, besides those that need none; none of them: any, with a password."""
    # Where it is told to listen, it may be told its name.
    return (*settings.allowed_hosts, settings.host) if settings.allowed_hosts or login is None else ()


def ready(settings: Settings, core: Core) -> list[Check]:
    """The checks that decide whether predictions can be answered."""
    database = checks.check("database", lambda: checks.revision(core.parts.database))
    found = [checks.data_folder(settings.data_dir), database]
    if database.state != BROKEN:  # the queue is there, too, and one that does not answer is waited for once
        found.append(checks.check("queue", lambda: checks.queue(core.jobs)))
    return [*found, checks.check("model", lambda: checks.model(core.serving, settings.starter))]


def naming_of(settings: Settings, core: Core, login: Login | None, outlooks: Outlooks | None = None) -> Naming:
    """The part that tells Label Studio which version is served."""
    shipped = starter(settings)
    try:
        name = None if shipped is None else read_card(shipped).name
    except CheckpointError:
        name = None  # it cannot be served either, and serving says why

    def said(project: str) -> str | None:
        known = outlooks.of(project, wait=0) if outlooks is not None else None
        return None if known is None or known.problem else known.sentence

    return Naming(
        core.serving.served, core.parts.connections.client, login, name, settings.loops_dir, said, settings.public_url
    )


def login_of(settings: Settings) -> Login | None:
    """The login that callers need; logs a warning if there is none although other machines can call."""
    if settings.basic_auth_user is None or settings.basic_auth_password is None:
        if settings.host not in LOOPBACK:
            logger.warning(
                "everybody who reaches %s:%d may see and change everything; "
                "set PREMASK_BASIC_AUTH_USER and PREMASK_BASIC_AUTH_PASSWORD",
                settings.host,
                settings.port,
            )
        return None
    token = settings.webhook_token
    return Login(
        settings.basic_auth_user,
        settings.basic_auth_password.get_secret_value(),
        None if token is None else token.get_secret_value(),
        settings.viewer_user,
        None if settings.viewer_password is None else settings.viewer_password.get_secret_value(),
        settings.role_header,
        settings.role_proxies,
    )
