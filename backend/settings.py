"""One settings object, read once from the environment, every problem reported together."""

import difflib
import errno
import os
import re
import tempfile
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import NoDecode

from backend.errors import SettingsError
from models.sam_checkpoint import CONFIG, sam_kind, transformers_missing
from models.starter import PROMPTS, STARTER, STARTERS, model_folder

PREFIX = "PREMASK_"
# In the data folder, and this user's: a command that another user ran there, such as root, may have made one of them.
PARTS = ("jobs", "loops", "models", "premask.sqlite", "queue.sqlite", "runtime", "secret-key")
DEVICE = r"cpu|cuda(:\d{1,3})?|auto"  # how a device is written
# Names of this kind that are no settings: of processes among each other, and of the tests.
NO_SETTINGS = (f"{PREFIX}PARENT", f"{PREFIX}SOAK_", f"{PREFIX}OCT_DATA")
# How alike a name without the prefix has to be to a setting's, so that it is not another program's.
SURELY_MEANT = 0.91
SECRET = (
    "label_studio_api_key",
    "basic_auth_password",
    "viewer_password",
    "webhook_token",
    "database_url",
    "secret_key",
    "notify_url",
)
# Variables that earlier releases knew, and the remedy.
RETIRED = {
    f"{PREFIX}QUEUE_URL": "unset it; several machines share a PostgreSQL, named by PREMASK_DATABASE_URL",
}

# Instead of chown, where a folder cannot be written to for another reason.
REMEDIES = {
    errno.EROFS: "mount it so that it can be written to",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
}

# What to write instead, per field; a problem is reported as "NAME=seen: expected ...; remedy".
EXPECTED = {
    "label_studio_url": "the address of Label Studio, such as http://127.0.0.1:8080",
    "label_studio_api_key": "a token of a Label Studio user, together with LABEL_STUDIO_URL",
    "data_dir": "a folder that this user may write to",
    "host": "the address to listen on, such as 127.0.0.1 or 0.0.0.0",
    "port": "a port from 1 to 65535",
    "threads": "a whole number from 2 to 256 (a fifth is kept free for /health and /setup)",
    "starter": "xception, light, the folder of a checkpoint (with card.json), or none to serve no starter",
    "prompt_model": "prompts, the folder of a prompt network (with card.json) or of a SAM or SAM 2 checkpoint in "
    "transformers' format (with config.json and safetensors), or none",
    "device": "cpu, cuda, cuda:N such as cuda:1, or auto",
    "batch_size": "a whole number from 1 to 256",
    "torch_threads": "a whole number from 1 to 256",
    "runtime": "auto, pytorch or openvino",
    "regions": "class or object",
    "prefetch": "a whole number from 0 to 32; 0 predicts no task before it is opened",
    "deadline": "seconds from 1 to 600",
    "database_url": "a PostgreSQL, such as postgresql://user:password@host:5432/premask, or nothing to use a file",
    "models_url": "a folder, or an address such as s3://bucket/prefix",
    "models_endpoint": "the address of an S3 server, such as https://minio.example:9000, together with "
    "PREMASK_MODELS_URL=s3://...",
    "models_cache_gb": "a number of GiB from 0.1 up",
    "secret_key": "a random text of 16 characters or more, the same on every machine",
    "train_minutes": "minutes above 0, at most 10080",
    "train_preset": "paper, fast or full",
    "train_processes": "a whole number from 1 up, at most the machine's GPUs; unset uses them all",
    "min_accepted": "a whole number from 1 up",
    "keep_versions": "a whole number from 1 up",
    "group_field": "the name of a field of the tasks' data, such as patient",
    "train_after": "a whole number from 0 up; 0 trains only when somebody asks for it",
    "minutes_per_mask": "minutes above 0, at most 600",
    "notify_url": 'the address of a webhook that takes {"text": ...}, such as https://hooks.slack.com/services/...',
    "public_url": "the address under which people open this server, such as https://premask.example",
    "viewer_user": "a user name without a colon, together with PREMASK_VIEWER_PASSWORD",
    "viewer_password": "a password of 8 characters or more, together with PREMASK_VIEWER_USER",
    "role_header": "the name of a header, such as X-Premask-Role, together with PREMASK_ROLE_PROXIES",
    "role_proxies": "addresses or networks separated by commas, such as 10.0.0.5,172.18.0.0/16",
    "max_request_mb": "a whole number of megabytes from 1 to 4096",
    "image_hosts": "host names separated by commas, with a port or without, such as images.example,10.0.0.5:8000",
    "allowed_hosts": "host names separated by commas, such as annotate.example.org or .example.org, or * for any",
    "basic_auth_user": "a user name without a colon, together with PREMASK_BASIC_AUTH_PASSWORD",
    "basic_auth_password": "a password of 8 characters or more, together with PREMASK_BASIC_AUTH_USER",
    "webhook_token": "a random string of 8 characters or more, together with user and password",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
    "log_format": "text or json",
}


class Settings(BaseSettings):
    """Everything that can be configured.

    Attributes:
        label_studio_url: Label Studio's address; without it the address in each `/setup` call is used.
        label_studio_api_key: legacy or personal access token; sent to `label_studio_url` alone.
        data_dir: model versions, job records and the queue live here.
        host: address to listen on.
        port: port to listen on.
        threads: requests served at the same time by the one process: they wait for their turn on the networks.
        starter: checkpoint served to projects whose classes it knows until their first training.
        prompt_model: checkpoint that answers clicks and boxes on classes which no model of the project knows.
        device: where the networks run; auto takes the GPU with most free memory, if there is one.
        batch_size: images per forward pass.
        torch_threads: cores that one forward pass may use; unset leaves the choice to torch.
        runtime: what computes the networks on a CPU; auto measures each version once and takes the faster.
        regions: whether a class gets one brush region, or each of its objects one; model_regions on a control wins.
        prefetch: tasks of a project predicted ahead when one is opened, while nothing else is asked; 0 for none.
        deadline: seconds after which an answer to Label Studio is complete; a job predicts what is missing.
        database_url: PostgreSQL for jobs, queue and leases, for servers and workers on several machines; unset uses
            SQLite in the data folder.
        models_url: folder, or address that fsspec knows, of the versions' files, for servers and workers on several
            machines; unset uses a folder in the data folder.
        models_endpoint: the S3 server of an s3:// address, where it is not Amazon's.
        models_cache_gb: size of this machine's copies of versions, where they are in no folder.
        secret_key: encrypts the tokens that `/setup` brings and signs the dashboard's forms; unset uses a random one,
            kept in the data folder.
        train_minutes: time budget of one training.
        train_preset: size of a training.
        train_processes: processes that share each batch of a training; unset: one for each GPU with cuda and auto.
        min_accepted: accepted tasks that a project needs before it can train.
        keep_versions: model versions of a project that are kept, besides the served one and the one before it.
        group_field: tasks equal in this field are split together; unset: patient, study, series or group, if in all.
        train_after: newly accepted tasks after which a project trains by itself; 0 for never.
        minutes_per_mask: time in which your annotators draw one mask by hand; unset, no saved minutes are shown.
        notify_url: a webhook that is told when a job ends or fails, in Slack's form; unset tells nobody.
        public_url: where people open this server, for links to the dashboard; unset: as Label Studio reaches it.
        viewer_user: user name of those who may look at pages and figures but change nothing.
        viewer_password: the password for it.
        role_header: a header by which a proxy says "viewer" or "lead" of whoever it has let in.
        role_proxies: the proxies whose header counts.
        max_request_mb: larger request bodies are refused with 413.
        image_hosts: hosts besides Label Studio's from which images may be fetched.
        allowed_hosts: names under which the server answers besides addresses, names without a dot and .internal; any
            name while a password is set and none is given here. `*` takes any.
        basic_auth_user: user name that callers need; unset lets everybody in.
        basic_auth_password: the password for it.
        webhook_token: opens /webhook without them, for Label Studio's webhooks.
        log_level: least severe level that is logged.
        log_format: lines for people, or JSON objects for a log collector.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    label_studio_url: str | None = Field(None, validation_alias=AliasChoices("LABEL_STUDIO_URL"))
    label_studio_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("LABEL_STUDIO_API_KEY"))
    data_dir: Path = Field(Path("premask-data"), validate_default=True)
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(9090, ge=1, le=65535)
    threads: int = Field(40, ge=2, le=256)
    starter: Path | None = STARTER
    prompt_model: Path | None = PROMPTS
    device: str = Field("cpu", pattern=f"^({DEVICE})$")
    # On a CPU larger batches are no faster, and an annotator who opens a task waits for the current one.
    batch_size: int = Field(2, ge=1, le=256)
    torch_threads: int | None = Field(None, ge=1, le=256)
    runtime: Literal["auto", "pytorch", "openvino"] = "auto"
    regions: Literal["class", "object"] = "class"
    prefetch: int = Field(2, ge=0, le=32)
    # Below Label Studio's 100 s even where a proxy holds back the blanks that keep it waiting.
    deadline: float = Field(60.0, ge=1, le=600)
    database_url: SecretStr | None = None
    models_url: str | None = None
    models_endpoint: str | None = None
    models_cache_gb: float = Field(10.0, ge=0.1, allow_inf_nan=False)
    secret_key: SecretStr | None = Field(None, min_length=16)
    train_minutes: float = Field(10.0, gt=0, le=10080)
    train_preset: Literal["paper", "fast", "full"] = "fast"
    train_processes: int | None = Field(None, ge=1, le=256)
    min_accepted: int = Field(4, ge=1)
    keep_versions: int = Field(10, ge=1)
    group_field: str | None = Field(None, min_length=1)
    train_after: int = Field(0, ge=0)
    minutes_per_mask: float | None = Field(None, gt=0, le=600)
    notify_url: SecretStr | None = None
    public_url: str | None = None
    viewer_user: str | None = Field(None, pattern="^[^:]+$")
    viewer_password: SecretStr | None = Field(None, min_length=8)
    role_header: str | None = Field(None, pattern="^[A-Za-z0-9-]{1,64}$")
    role_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    # A request repeats every annotation and prediction of its tasks, masks and all: 1,500 tasks can be 100 MB.
    max_request_mb: int = Field(512, ge=1, le=4096)
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    basic_auth_user: str | None = Field(None, pattern="^[^:]+$")
    basic_auth_password: SecretStr | None = Field(None, min_length=8)
    webhook_token: SecretStr | None = Field(None, min_length=8)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come from arguments alone: `from_environ` is the one place that reads an environment."""
        return (init_settings,)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from environment variables; empty and blank ones count as unset.

        A secret may be given as the path of a file that holds it, by its name and `_FILE`.

        Raises:
            SettingsError: a line for every variable that cannot be used: what was seen, expected, and the remedy; also
                for one that is the name of no setting.
        """
        variables = {name.upper(): value for name, value in environ.items() if value.strip()}
        unread = _read_files(variables)
        source = EnvSettingsSource(cls, env_ignore_empty=True)
        source.env_vars = {name.lower(): value for name, value in variables.items()}
        problems = unread + _unaccompanied(variables) + _retired(variables) + _misspelt(variables)
        try:
            settings = cls(**source())
        except ValidationError as error:
            problems = [_line(str(one["loc"][0]), _said(one), variables) for one in error.errors()] + problems
        if problems:
            count = "a setting" if len(problems) == 1 else f"{len(problems)} settings"
            raise SettingsError("\n  ".join([f"cannot start: {count} cannot be used", *problems]))
        return settings

    @field_validator("image_hosts", "allowed_hosts", "role_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip().lower() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("image_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if re.fullmatch(r"([\w-]+(\.[\w-]+)*|\[[0-9a-f:.]+\]|[0-9a-f]*:[0-9a-f:.]+)(:\d{1,5})?", name) is None:
                raise ValueError(f"{name!r} is no host name; leave out http:// and the path")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if re.fullmatch(r"\*|(\*?\.)?[\w-]+(\.[\w-]+)*", name) is None:
                raise ValueError(f"{name!r} is no host name; leave out http://, the port and the path")
        return value

    @field_validator("starter", "prompt_model", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return None if value.lower() == "none" else model_folder(value)

    @field_validator("starter")
    @classmethod
    def _is_checkpoint(cls, value: Path | None) -> Path | None:
        # The shipped folders are not checked: they come with the package, and one without them serves no starter.
        if value is not None and value not in STARTERS.values() and not (value / "card.json").is_file():
            raise ValueError("there is no card.json in it")
        return value

    @field_validator("prompt_model")
    @classmethod
    def _draws_objects(cls, value: Path | None) -> Path | None:
        if value is None or value == PROMPTS or (value / "card.json").is_file():
            return value
        if sam_kind(value) is None:
            raise ValueError(f"there is neither a card.json nor a {CONFIG} of SAM or SAM 2 in it")
        if transformers_missing():
            raise ValueError("SAM needs transformers, which is not installed: pip install 'premask[sam]'")
        return value

    @field_validator("role_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(f"{one!r} is neither an address nor a network") from None
        return value

    @field_validator("notify_url")
    @classmethod
    def _is_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            web_address(value.get_secret_value())
        return value

    @field_validator("models_url")
    @classmethod
    def _is_store(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if "://" not in value:
            return str(Path(value).expanduser().absolute())
        parts = urlsplit(value)
        if parts.password is not None:
            raise ValueError("it must hold no password; keys are given as that store's own programs take them")
        if parts.scheme in ("s3", "s3a") and not parts.netloc:
            raise ValueError("it names no bucket")
        return value.rstrip("/")

    @field_validator("label_studio_url", "public_url", "models_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value).rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in ("postgresql", "postgres"):
            raise ValueError("it must begin with postgresql://")
        return value

    @field_validator("data_dir")
    @classmethod
    def _is_writable(cls, value: Path) -> Path:
        value = value.expanduser().absolute()
        try:
            value.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=value):
                pass
            for part in PARTS:
                path = value / part
                if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                    raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {part}")
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, f"run `chown -R {os.getuid()} {value}`")
            raise ValueError(
                f"user id {os.getuid()} cannot write there ({error.strerror}); {remedy} or choose another folder"
            ) from None
        return value

    @property
    def loops_dir(self) -> Path:
        """Where the loops of all processes report."""
        return self.data_dir / "loops"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything configured that no log may show."""
        values = [key.get_secret_value() for name in SECRET if (key := getattr(self, name)) is not None]
        if self.database_url is not None and (password := urlsplit(self.database_url.get_secret_value()).password):
            values += {password, unquote(password)}
        return tuple(values)


def _read_files(variables: dict[str, str]) -> list[str]:
    """Put secrets that are given as files in place of their paths; returns what is wrong with any."""
    problems = []
    for name in map(_variable, SECRET):
        path = variables.pop(f"{name}_FILE", None)
        if path is None:
            continue
        if name in variables:
            problems.append(f"{name}_FILE is set beside {name}; unset one of them")
            continue
        try:
            # An editor, `echo` and `kubectl create secret` end a file by a line end that is no part of the secret.
            variables[name] = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            says = getattr(error, "strerror", None) or "it is no text in UTF-8"
            problems.append(f"{name}_FILE={path}: it cannot be read: {says}; expected a file that holds the secret")
            continue
        if not variables[name]:
            del variables[name]
            problems.append(f"{name}_FILE={path}: it is empty; expected a file that holds the secret")
    return problems


def web_address(text: str) -> str:
    """The text, if it is the address of a web server.

    Raises:
        ValueError: it is none; the message says what is wrong with it, and does not show it.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if not parts.hostname:
        raise ValueError("it names no host")
    _ = parts.port  # raises ValueError if it is none
    return text


def _unaccompanied(variables: Mapping[str, str]) -> list[str]:
    """Settings that need another one, which is missing.

    A key is only ever sent to the host it was given for. And a webhook token alone would shut out Start Training, which
    Label Studio sends with the password or with nothing.
    """
    return [
        f"{name} is set without {other}; set both or neither"
        for name, other in (
            ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_URL"),
            ("PREMASK_BASIC_AUTH_USER", "PREMASK_BASIC_AUTH_PASSWORD"),
            ("PREMASK_BASIC_AUTH_PASSWORD", "PREMASK_BASIC_AUTH_USER"),
            ("PREMASK_WEBHOOK_TOKEN", "PREMASK_BASIC_AUTH_USER"),
            ("PREMASK_VIEWER_USER", "PREMASK_VIEWER_PASSWORD"),
            ("PREMASK_VIEWER_PASSWORD", "PREMASK_VIEWER_USER"),
            # A password for some is none for the others.
            ("PREMASK_VIEWER_USER", "PREMASK_BASIC_AUTH_USER"),
            ("PREMASK_ROLE_HEADER", "PREMASK_ROLE_PROXIES"),
            ("PREMASK_ROLE_HEADER", "PREMASK_BASIC_AUTH_USER"),
            ("PREMASK_ROLE_PROXIES", "PREMASK_ROLE_HEADER"),
            ("PREMASK_MODELS_ENDPOINT", "PREMASK_MODELS_URL"),
        )
        if name in variables and other not in variables
    ]


def _retired(variables: Mapping[str, str]) -> list[str]:
    """Variables that earlier releases knew: whoever sets one relies on it."""
    return [f"{name} is set, which means nothing any more; {do}" for name, do in RETIRED.items() if name in variables]


def _misspelt(variables: Mapping[str, str]) -> list[str]:
    """Variables that mean a setting and name none: ignored, they would leave it at its default in silence."""
    known = [_variable(field) for field in Settings.model_fields]
    lines = []
    for name in sorted(set(variables) - set(known) - set(RETIRED)):
        own = name.startswith(PREFIX)
        if own and name.startswith(NO_SETTINGS):
            continue
        near = difflib.get_close_matches(name, known, 1, 0.6 if own else SURELY_MEANT)
        if near:
            lines.append(f"{name}: there is no such setting; did you mean {near[0]}?")
        elif own:
            lines.append(f"{name}: there is no such setting; docs/settings.md lists all: correct its name or unset it")
    return lines


def _variable(field: str) -> str:
    return field.upper() if field.startswith("label_studio") else PREFIX + field.upper()


def _said(error: ErrorDetails) -> str:
    # Of a secret pydantic counts "items".
    return "it has too few characters" if error["type"] == "too_short" else error["msg"].removeprefix("Value error, ")


def _line(field: str, message: str, variables: Mapping[str, str]) -> str:
    field = field.lower()
    variable = _variable(field)
    seen = "***" if field in SECRET else variables.get(variable, "(unset)")
    return f"{variable}={seen}: {message[:1].lower()}{message[1:]}; expected {EXPECTED[field]}"
