import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from backend.errors import SettingsError
from backend.settings import PARTS, Settings, _misspelt, _variable
from models.starter import STARTERS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The default data folder is made in the working directory."""
    monkeypatch.chdir(tmp_path)


def test_an_empty_environment_is_enough(tmp_path):
    settings = Settings.from_environ({})
    assert settings.data_dir == tmp_path / "premask-data"
    assert (settings.host, settings.port, settings.label_studio_url) == ("127.0.0.1", 9090, None)


def test_values_come_from_the_given_environment_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PREMASK_PORT", "1234")
    settings = Settings.from_environ(
        {
            "PREMASK_DATA_DIR": str(tmp_path),
            "LABEL_STUDIO_URL": "http://ls:8080/sub/",
            "LABEL_STUDIO_API_KEY": "s3cret",
            "PREMASK_STARTER": "none",
            "PREMASK_IMAGE_HOSTS": "Images.example, 10.0.0.5:8000",
        }
    )
    assert settings.port == 9090
    assert settings.label_studio_url == "http://ls:8080/sub"
    assert settings.starter is None
    assert settings.image_hosts == ("images.example", "10.0.0.5:8000")


@pytest.mark.parametrize("name", ["light", "Xception"])
def test_a_shipped_starter_is_chosen_by_its_name(tmp_path, name):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_STARTER": name})
    assert settings.starter == STARTERS[name.lower()]


def test_the_key_shows_in_no_text(tmp_path):
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "LABEL_STUDIO_URL": "http://ls", "LABEL_STUDIO_API_KEY": "s3cret"}
    assert "s3cret" not in repr(Settings.from_environ(environ))
    with pytest.raises(SettingsError) as error:
        Settings.from_environ(environ | {"LABEL_STUDIO_URL": "", "PREMASK_PORT": "no"})
    assert "s3cret" not in str(error.value)


def test_every_problem_is_reported_at_once_with_what_was_seen_and_expected():
    with pytest.raises(SettingsError) as error:
        Settings.from_environ(
            {
                "PREMASK_PORT": "eighty",
                "PREMASK_DEVICE": "tpu",
                "PREMASK_STARTER": "/nowhere",
                "PREMASK_DATA_DIR": "/proc/premask",
                "LABEL_STUDIO_URL": "ls:8080",
                "LABEL_STUDIO_API_KEY": "",
            }
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "cannot start: 5 settings cannot be used"
    report = "\n".join(lines)
    assert "PREMASK_PORT=eighty" in report
    assert "expected a port from 1 to 65535" in report
    assert "LABEL_STUDIO_URL=ls:8080: it must begin with http:// or https://" in report
    assert "chown" in report


def test_a_key_without_an_address_is_refused_because_it_goes_nowhere_else():
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY is set without LABEL_STUDIO_URL"):
        Settings.from_environ({"LABEL_STUDIO_API_KEY": "k", "PREMASK_PORT": "0"})


def test_passwords_come_with_users_and_the_webhooks_token_with_both():
    both = {
        "PREMASK_BASIC_AUTH_USER": "lead",
        "PREMASK_BASIC_AUTH_PASSWORD": "s3cret-s3cret",
        "PREMASK_WEBHOOK_TOKEN": "h00k-h00k",
    }
    settings = Settings.from_environ(both)
    assert settings.secrets == ("s3cret-s3cret", "h00k-h00k")
    assert "s3cret" not in repr(settings) + str(settings)
    for without, says in (
        ("PREMASK_BASIC_AUTH_PASSWORD", "USER is set without PREMASK_BASIC_AUTH_PASSWORD"),
        ("PREMASK_BASIC_AUTH_USER", "PASSWORD is set without PREMASK_BASIC_AUTH_USER"),
    ):
        with pytest.raises(SettingsError, match=says) as error:
            Settings.from_environ(both | {without: "", "PREMASK_PORT": "no"})
        assert "PREMASK_PORT=no" in str(error.value)
        assert "s3cret" not in str(error.value)
    with pytest.raises(SettingsError, match="TOKEN is set without"):
        Settings.from_environ({"PREMASK_WEBHOOK_TOKEN": "h00k-h00k"})
    with pytest.raises(SettingsError, match="8 characters or more") as error:
        Settings.from_environ(both | {"PREMASK_BASIC_AUTH_PASSWORD": "sh0rt"})
    assert "sh0rt" not in str(error.value)
    with pytest.raises(SettingsError, match="user name without a colon"):
        Settings.from_environ(both | {"PREMASK_BASIC_AUTH_USER": "le:ad"})


def test_a_folder_that_is_a_file_is_no_data_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="PREMASK_DATA_DIR"):
        Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path / "file")})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_data_folder_that_is_another_users_is_named(part, monkeypatch):
    """Root ran a command there: what fails then is a training, hours later."""
    folder = Path(tempfile.mkdtemp(prefix="premask-", dir="/tmp"))
    try:
        folder.chmod(0o777)
        (folder / part).touch(mode=0o600)
        Settings.from_environ({"PREMASK_DATA_DIR": str(folder)})
        monkeypatch.setattr(os, "getuid", lambda: 65534)
        before = os.geteuid()
        os.seteuid(65534)
        try:
            with pytest.raises(SettingsError) as error:
                Settings.from_environ({"PREMASK_DATA_DIR": str(folder)})
        finally:
            os.seteuid(before)
        said = f"user id 65534 cannot write there (Permission denied: {part}); run `chown -R 65534 {folder}` or choose"
        assert said in str(error.value)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EROFS, "mount it so that it can be written to or"), (errno.ENOSPC, "make room or")]
)
def test_a_data_folder_that_nobody_can_write_to_has_another_remedy_than_chown(tmp_path, monkeypatch, number, says):
    def fail(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(SettingsError, match=rf"{os.strerror(number)}\); {says}"):
        Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)})


def test_a_database_that_is_no_postgresql_is_refused_without_its_password():
    with pytest.raises(SettingsError) as error:
        Settings.from_environ({"PREMASK_DATABASE_URL": "mysql://:s3cret@host", "PREMASK_DEADLINE": "0"})
    assert "PREMASK_DATABASE_URL=***: it must begin with postgresql://" in str(error.value)
    assert "PREMASK_DEADLINE=0" in str(error.value)
    assert "s3cret" not in str(error.value)
    for address in (
        "postgresql://premask:s%C3%A9cret@host:5432/premask",
        "postgres://premask:s%C3%A9cret@host/premask",
    ):
        settings = Settings.from_environ({"PREMASK_DATABASE_URL": address})
        assert "s%C3" not in repr(settings)
        assert {address, "s%C3%A9cret", "sécret"} <= set(settings.secrets)


def test_a_secret_key_that_is_too_short_is_refused_without_being_shown():
    with pytest.raises(SettingsError, match=r"PREMASK_SECRET_KEY=\*\*\*: .*16 characters") as error:
        Settings.from_environ({"PREMASK_SECRET_KEY": "too short"})
    assert "too short" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"MODELS_URL": "s3://key:s3cret@bucket/prefix"}, "it must hold no password"),
        ({"MODELS_URL": "s3:///prefix"}, "it names no bucket"),
        (
            {"MODELS_ENDPOINT": "https://minio.example:9000"},
            "PREMASK_MODELS_ENDPOINT is set without PREMASK_MODELS_URL",
        ),
        ({"MODELS_URL": "s3://bucket", "MODELS_ENDPOINT": "minio:9000"}, "it must begin with http"),
        ({"MODELS_CACHE_GB": "0"}, "greater than or equal to 0.1"),
    ],
)
def test_a_store_of_versions_that_cannot_be_meant_is_told(given, says):
    with pytest.raises(SettingsError, match=says):
        Settings.from_environ({f"PREMASK_{name}": value for name, value in given.items()})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"MODELS_CACHE_GB": "inf"}, "MODELS_CACHE_GB=inf: .*finite"),
        ({"TRAIN_MINUTES": "nan"}, "TRAIN_MINUTES=nan: .*expected minutes above 0"),
        ({"IMAGE_HOSTS": "a.example,http://b.example/x"}, "'http://b.example/x' is no host name; leave out http://"),
        ({"IMAGE_HOSTS": "*.example"}, "is no host name"),
        (
            {"BASIC_AUTH_USER": "lead", "BASIC_AUTH_PASSWORD": "sh0rt"},
            r"=\*\*\*: it has too few characters; expected a password",
        ),
    ],
)
def test_what_would_fail_later_or_never_match_is_told_at_the_start(given, says):
    with pytest.raises(SettingsError, match=says):
        Settings.from_environ({f"PREMASK_{name}": value for name, value in given.items()})


def test_hosts_of_images_may_have_ports_and_be_addresses_of_any_kind():
    given = "images.example,10.0.0.5:8000,my_host:80,[::1]:9000,fe80::1"
    assert Settings.from_environ({"PREMASK_IMAGE_HOSTS": given}).image_hosts == tuple(given.split(","))


def test_a_blank_setting_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environ({"PREMASK_DATA_DIR": " ", "PREMASK_PORT": "  "}).data_dir == tmp_path / "premask-data"


def test_a_store_is_a_folder_or_an_address(tmp_path):
    assert Settings.from_environ({"PREMASK_MODELS_URL": f"{tmp_path}/x/../models"}).models_url.startswith("/")
    assert Settings.from_environ({"PREMASK_MODELS_URL": "s3://bucket/prefix/"}).models_url == "s3://bucket/prefix"
    assert Settings.from_environ({}).models_url is None


def test_a_setting_of_an_earlier_release_is_refused_with_what_came_instead():
    with pytest.raises(SettingsError, match=r"PREMASK_QUEUE_URL is set.*; .*PREMASK_DATABASE_URL"):
        Settings.from_environ({"PREMASK_QUEUE_URL": "redis://:s3cret@host:6379/0"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PREMASK_TRIAN_AFTER", "did you mean PREMASK_TRAIN_AFTER?"),
        ("PREMASK_STARTERS", "did you mean PREMASK_STARTER?"),
        ("PREMASK_LABEL_STUDIO_URL", "did you mean LABEL_STUDIO_URL?"),
        ("premask_min_acepted", "did you mean PREMASK_MIN_ACCEPTED?"),
        ("PREMAKS_DEVICE", "did you mean PREMASK_DEVICE?"),
        ("LABEL_STUDIO_APIKEY", "did you mean LABEL_STUDIO_API_KEY?"),
        ("PREMASK_ZZZZZZZ", "docs/settings.md lists all"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(name, meant):
    with pytest.raises(SettingsError) as error:
        Settings.from_environ({name: "s3cret", "PREMASK_PORT": "no"})
    assert f"{name.upper()}: there is no such setting; " in str(error.value)
    assert meant in str(error.value)
    assert "PREMASK_PORT=no" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_variables_of_other_programs_and_of_the_tests_are_left_alone():
    others = ("LABEL_STUDIO_HOST", "LABEL_STUDIO_PORT", "LABEL_STUDIO_API_TOKEN", "PORT", "HOST", "PREMASK_SOAK_TASKS")
    assert Settings.from_environ(dict.fromkeys(others, "x")).port == 9090


def test_every_setting_is_known_by_its_own_name():
    names = {_variable(field) for field in Settings.model_fields}
    assert not _misspelt(dict.fromkeys(names, "x"))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:11", "auto"])
def test_a_device_is_named_as_torch_does(device):
    assert Settings.from_environ({"PREMASK_DEVICE": device}).device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA 1"])
def test_another_device_is_refused_with_what_is_expected(device):
    with pytest.raises(
        SettingsError, match=f"PREMASK_DEVICE={device}: .*expected cpu, cuda, cuda:N such as cuda:1, or"
    ):
        Settings.from_environ({"PREMASK_DEVICE": device})


def test_a_secret_may_be_a_file_whose_last_line_end_is_no_part_of_it(tmp_path):
    file = tmp_path / "key"
    file.write_text("0123456789abcdef0123\n")
    settings = Settings.from_environ({"PREMASK_SECRET_KEY_FILE": str(file)})
    assert settings.secret_key.get_secret_value() == "0123456789abcdef0123"
    assert "0123456789abcdef0123" in settings.secrets


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        (None, {}, "PREMASK_SECRET_KEY_FILE=.*: it cannot be read: No such file"),
        ("\n", {}, "it is empty; expected a file that holds the secret"),
        ("0123456789abcdef", {"PREMASK_SECRET_KEY": "f" * 16}, "_FILE is set beside PREMASK_SECRET_KEY"),
        ("short", {}, r"PREMASK_SECRET_KEY=\*\*\*: .*expected a random text of 16"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_without_what_is_in_it(tmp_path, content, more, says):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=says) as caught:
        Settings.from_environ({"PREMASK_SECRET_KEY_FILE": str(file), **more})
    assert "short" not in str(caught.value)


def test_a_setting_that_is_no_secret_has_no_file():
    with pytest.raises(SettingsError, match="PREMASK_PORT_FILE: there is no such setting"):
        Settings.from_environ({"PREMASK_PORT_FILE": "/port"})
