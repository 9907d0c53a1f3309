import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from backend.database.credentials import MAX_PROJECTS, Credentials
from backend.database.engine import Database
from backend.database.tables import CONNECTIONS
from backend.database.vault import KEY_FILE, Vault
from backend.errors import DatabaseError, LabelStudioError
from tests.backend.conftest import BOTH_STORAGES

pytestmark = BOTH_STORAGES


@pytest.fixture
def make(records: Database, tmp_path: Path):
    """Makes credentials, as every process does for itself."""
    return lambda *configured, vault=None: Credentials(records, vault or Vault(tmp_path), *configured)


def test_the_configured_key_never_goes_to_an_address_from_a_request(make):
    credentials = make("http://ls", SecretStr("configured"))
    credentials.remember("3", "http://evil.example", "sent")
    assert credentials.of("3").url == "http://ls"
    assert credentials.of("3").api_key.get_secret_value() == "configured"


def test_without_configuration_a_projects_address_and_token_stay_the_pair_that_came(make):
    credentials = make()
    credentials.remember("3", "http://ls:8080/", "one")
    credentials.remember("4", "http://other", "two")
    credentials.remember("3", "http://evil.example", "")  # incomplete: must not inherit the token
    again = make()
    assert (again.of("3").url, again.of("3").api_key.get_secret_value()) == ("http://ls:8080", "one")
    assert again.of("4").api_key.get_secret_value() == "two"
    assert again.addresses() == {"3": "http://ls:8080", "4": "http://other"}


def test_a_new_token_replaces_the_old_one_and_a_forgotten_project_has_none(make):
    credentials = make()
    credentials.remember("3", "http://ls", "old")
    credentials.remember("3", "http://ls", "new")
    assert credentials.of("3").api_key.get_secret_value() == "new"
    credentials.forget("3")
    credentials.forget("3")
    with pytest.raises(LabelStudioError):
        credentials.of("3")


def test_a_configured_address_wins_over_the_one_label_studio_believes_to_have(make):
    credentials = make("http://label-studio:8080")
    credentials.remember("3", "http://localhost:8080", "sent")
    assert credentials.of("3").url == "http://label-studio:8080"


def test_the_database_holds_no_token_that_can_be_read(make, records, tmp_path):
    make().remember("3", "http://ls", "a-plain-token")
    (row,) = records.read(lambda connection: connection.execute(select(CONNECTIONS)).all())
    assert "a-plain-token" not in str(row)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_machines_with_the_same_secret_key_read_each_others_tokens(make, tmp_path):
    one, other = (Vault(tmp_path / name, SecretStr("the same on all machines")) for name in ("here", "there"))
    make(vault=one).remember("3", "http://ls", "t")
    assert make(vault=other).of("3").api_key.get_secret_value() == "t"


def test_a_token_of_another_key_is_said_and_the_next_setup_replaces_it(make, tmp_path):
    make().remember("3", "http://ls", "t")
    credentials = make(vault=Vault(tmp_path, SecretStr("another key than the folder's")))
    with pytest.raises(LabelStudioError, match=r"encrypted with another key.*PREMASK_SECRET_KEY"):
        credentials.of("3")
    credentials.remember("3", "http://ls", "t")
    assert credentials.of("3").api_key.get_secret_value() == "t"


def test_a_key_that_cannot_be_made_or_read_is_named(make, tmp_path):
    with pytest.raises(DatabaseError, match=r"key in .*nowhere"):
        make(vault=Vault(tmp_path / "nowhere")).remember("3", "http://ls", "t")


def test_an_unknown_project_is_told_what_to_set(make):
    with pytest.raises(LabelStudioError, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
        make().of("9")


def test_the_oldest_projects_make_room_for_new_ones(make, monkeypatch):
    monkeypatch.setattr("backend.database.credentials.MAX_PROJECTS", 2)
    assert MAX_PROJECTS >= 100
    credentials = make()
    for project in "123":
        credentials.remember(project, "http://ls", "t")
    assert sorted(credentials.addresses()) == ["2", "3"]
