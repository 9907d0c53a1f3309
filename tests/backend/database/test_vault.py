from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from backend.database.vault import KEY_FILE, Vault
from backend.errors import DatabaseError


def test_processes_that_start_together_make_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda number: Vault(tmp_path).encrypted(str(number)), range(8)))
    assert [Vault(tmp_path).decrypted(token) for token in tokens] == list("01234567")
    assert [path.name for path in tmp_path.iterdir() if "secret" in path.name] == [KEY_FILE]


def test_keys_for_other_purposes_are_the_same_wherever_the_secret_is(tmp_path):
    """Where it is configured on several machines, or kept in a data folder."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    shared = [Vault(tmp_path / name, SecretStr("the same secret everywhere")) for name in ("one", "other")]
    assert shared[0].key_for("forms") == shared[1].key_for("forms")
    assert shared[0].key_for("forms") != shared[0].key_for("something else")
    kept = Vault(tmp_path / "one").key_for("forms")
    assert kept == Vault(tmp_path / "one").key_for("forms")
    assert kept not in (Vault(tmp_path / "other").key_for("forms"), shared[0].key_for("forms"))


@pytest.mark.parametrize(
    ("key", "says"),
    [(b"", "it has 0 characters, and 16 is the least"), (b"short", "5 characters"), (b"\xff" * 43, "ascii")],
)
def test_a_key_that_is_none_is_refused_and_stays(tmp_path, key, says):
    """An empty file would be a key that everybody knows."""
    (tmp_path / KEY_FILE).write_bytes(key)
    with pytest.raises(DatabaseError, match=rf"secret-key cannot be used: .*{says}.*; restore it from a copy"):
        Vault(tmp_path).check()
    assert (tmp_path / KEY_FILE).read_bytes() == key
