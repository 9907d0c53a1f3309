"""The demo's two servers: Label Studio without internet, and the backend that it asks for masks."""

import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.demo.checks import HOST
from backend.demo.processes import Server
from backend.system.files import write_json

COMPLETE = "database-is-complete"
ACCESS = tuple(
    f"PREMASK_{name}"
    for name in (
        "BASIC_AUTH_USER",
        "BASIC_AUTH_PASSWORD",
        "WEBHOOK_TOKEN",
        "VIEWER_USER",
        "VIEWER_PASSWORD",
        "ROLE_HEADER",
        "ROLE_PROXIES",
    )
)


@dataclass(frozen=True)
class Login:
    """The account of the demo's Label Studio, made up once per data folder."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)


def login_of(folder: Path) -> Login:
    """The account kept in `folder`, or a new one."""
    path = folder / "login.json"
    if path.exists():
        return Login(**json.loads(path.read_text()))
    login = Login("demo@premask.local", secrets.token_urlsafe(9), secrets.token_hex(20))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(login), mode=0o600)
    return login


def discard_unfinished(folder: Path) -> None:
    """Remove a Label Studio whose first start was interrupted: it cannot go on with a half-made database.

    No work can be in it yet: `keep` marks the one that answered.
    """
    data = folder / "label-studio"
    if data.exists() and not (data / COMPLETE).exists():
        shutil.rmtree(data)


def keep(folder: Path) -> None:
    """Mark Label Studio's database as complete: it answers."""
    (folder / "label-studio" / COMPLETE).touch()


def bring_up_to_date(folder: Path) -> None:
    """Move the backend's data from where earlier releases kept them, out of reach of `premask versions` and others."""
    old = folder / "backend"
    for path in sorted(old.glob("*")) if old.is_dir() else []:
        if not (folder / path.name).exists():
            path.rename(folder / path.name)
    if old.is_dir() and not any(old.iterdir()):
        old.rmdir()


def label_studio(folder: Path, port: int, program: Path, environ: Mapping[str, str]) -> Server:
    """Label Studio on SQLite in `folder`/label-studio.

    Args:
        folder: the demo's data folder.
        port: where it shall listen; must be free, or it silently takes the next one.
        program: the `label-studio` command of an environment of its own.
        environ: the caller's environment.
    """
    login, data, url = login_of(folder), (folder / "label-studio").resolve(), f"http://{HOST}:{port}"
    settings = {
        "DJANGO_DB": "sqlite",
        "BASE_DATA_DIR": str(data),
        "HOST": url,
        # The account goes through the environment: arguments are visible to every user of the machine.
        "USERNAME": login.email,
        "PASSWORD": login.password,
        "USER_TOKEN": login.token,
        # The backend is on this machine, which Label Studio by default refuses to call.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        # A slow machine may need longer than the default 100 s for a batch.
        "ML_TIMEOUT_PREDICT": "600",
        # Without these every start waits for hosts on the internet.
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
        "FEATURE_FLAGS_OFFLINE": "true",
    }
    # Label Studio reads settings without its prefix too (HOST, DEBUG, PORT ...): it gets none of the caller's.
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
    env = {name: environ[name] for name in kept if name in environ}
    env |= {f"LABEL_STUDIO_{name}": value for name, value in settings.items()}
    env["PYTHONUNBUFFERED"] = "1"  # the log tells how far it is
    # fmt: off
    command: list[str | Path] = [
        program.absolute(), "start", "--no-browser", "--internal-host", HOST, "--port", str(port), "--data-dir", data,
        "--enable-legacy-api-token",
    ]
    # fmt: on
    return Server("Label Studio", command, env, url, "/health", folder)


def backend(folder: Path, port: int, label_studio_url: str, environ: Mapping[str, str]) -> Server:
    """`premask serve`: the backend with its job worker, its data in `folder`, where every command looks for them."""
    login = login_of(folder)
    # It listens on this machine alone, and the demo asks it for news without a password.
    env = {name: value for name, value in environ.items() if name not in ACCESS} | {
        "PREMASK_DATA_DIR": str(folder.resolve()),
        "LABEL_STUDIO_URL": label_studio_url,
        "LABEL_STUDIO_API_KEY": login.token,
        "PYTHONUNBUFFERED": "1",
    }
    command: list[str | Path] = [Path(sys.executable).parent / "premask", "serve", "--host", HOST, "--port", str(port)]
    return Server("Backend", command, env, f"http://{HOST}:{port}", "/health", folder)
