from concurrent.futures import ThreadPoolExecutor

from backend.database.vault import KEY_FILE, Vault


def test_processes_that_start_together_make_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda number: Vault(tmp_path).encrypted(str(number)), range(8)))
    assert [Vault(tmp_path).decrypted(token) for token in tokens] == list("01234567")
    assert [path.name for path in tmp_path.iterdir() if "secret" in path.name] == [KEY_FILE]
