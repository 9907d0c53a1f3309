import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.database.credentials import Credentials
from backend.errors import LabelStudioError


def test_the_configured_key_never_goes_to_an_address_from_a_request(tmp_path: Path):
    credentials = Credentials(tmp_path / "c.json", "http://ls", SecretStr("configured"))
    credentials.remember("3", "http://evil.example", "sent")
    assert credentials.of("3").url == "http://ls"
    assert credentials.of("3").api_key.get_secret_value() == "configured"


def test_without_configuration_a_projects_address_and_token_stay_the_pair_that_came(tmp_path: Path):
    credentials = Credentials(tmp_path / "c.json")
    credentials.remember("3", "http://ls:8080/", "one")
    credentials.remember("4", "http://other", "two")
    credentials.remember("3", "http://evil.example", "")  # incomplete: must not inherit the token
    again = Credentials(tmp_path / "c.json")
    assert (again.of("3").url, again.of("3").api_key.get_secret_value()) == ("http://ls:8080", "one")
    assert again.of("4").api_key.get_secret_value() == "two"


def test_a_configured_address_wins_over_the_one_label_studio_believes_to_have(tmp_path: Path):
    credentials = Credentials(tmp_path / "c.json", url="http://label-studio:8080")
    credentials.remember("3", "http://localhost:8080", "sent")
    assert credentials.of("3").url == "http://label-studio:8080"


def test_only_the_user_may_read_the_file(tmp_path: Path):
    Credentials(tmp_path / "c.json").remember("3", "http://ls", "t")
    assert stat.S_IMODE((tmp_path / "c.json").stat().st_mode) == 0o600


def test_an_unknown_project_is_told_what_to_set(tmp_path: Path):
    with pytest.raises(LabelStudioError, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
        Credentials(tmp_path / "c.json").of("9")


def test_a_damaged_file_is_written_again(tmp_path: Path):
    (tmp_path / "c.json").write_text("{")
    credentials = Credentials(tmp_path / "c.json")
    credentials.remember("3", "http://ls", "t")
    assert credentials.of("3").url == "http://ls"
