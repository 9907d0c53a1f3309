"""Where the files of versions are: a folder, and a real S3 server."""

import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from backend.errors import StoreError
from backend.versions.store import File, Store
from tests.backend.conftest import BOTH_STORES
from tests.backend.fakes import write_checkpoint

PLACE = "project-3/p3-r001-lite0.0123456789ab"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = write_checkpoint(tmp_path / "p3-r001-lite0", "p3-r001-lite0")
    (folder / "gallery").mkdir()
    (folder / "gallery" / "1-frame.jpg").write_bytes(b"picture")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "converted.bin").write_bytes(b"of this machine")
    return folder


@BOTH_STORES
def test_what_is_put_is_fetched_as_it_was_without_what_a_machine_made_for_itself(versions_store, checkpoint):
    files = versions_store.put(checkpoint, PLACE)
    assert sorted(files) == ["card.json", "classifier.safetensors", "gallery/1-frame.jpg"]
    fetched = versions_store.fetch(PLACE, files)
    assert {name: (fetched.path / name).read_bytes() for name in files} == {
        name: (checkpoint / name).read_bytes() for name in files
    }
    assert fetched.path == versions_store.local(PLACE)
    assert versions_store.read(PLACE, "gallery/1-frame.jpg", files["gallery/1-frame.jpg"]) == b"picture"
    assert versions_store.places("3") == [PLACE]
    assert versions_store.projects() == ["3"]
    assert abs(versions_store.written(PLACE) - time.time()) < 600
    versions_store.remove(PLACE)
    versions_store.remove(PLACE)
    assert versions_store.places("3") == []


@BOTH_STORES
def test_an_identity_is_given_once(versions_store):
    assert versions_store.identity() is None
    versions_store.identify("first")
    versions_store.identify("second")
    assert versions_store.identity() == "first"


@BOTH_STORES
def test_looking_at_it_leaves_nothing(versions_store):
    versions_store.check()
    versions_store.check()
    assert versions_store.projects() == []
    assert versions_store._names_in("") == []


@BOTH_STORES
def test_what_is_not_there_is_told(versions_store, checkpoint):
    versions_store.identify("0123456789abcdef")
    files = versions_store.put(checkpoint, PLACE)
    with pytest.raises(StoreError, match=r"card.json"):
        versions_store.read("project-3/p3-r009.0123456789ab", "card.json")
    with pytest.raises(StoreError, match="p3-r009"):
        versions_store.fetch("project-3/p3-r009.0123456789ab", files)


def test_a_folder_is_served_from_where_it_lies(versions_store, checkpoint, tmp_path):
    """Nothing is copied on one machine."""
    files = versions_store.put(checkpoint, PLACE)
    assert versions_store.fetch(PLACE, files).path == tmp_path / "models" / PLACE


def test_a_card_in_the_folder_that_is_not_the_published_one_is_refused(versions_store, checkpoint, tmp_path):
    files = versions_store.put(checkpoint, PLACE)
    card = tmp_path / "models" / PLACE / "card.json"
    card.write_text(card.read_text().replace("Lumen", "Lumina"))
    with pytest.raises(StoreError, match=r"card\.json is damaged: its checksum"):
        versions_store.fetch(PLACE, files)


def test_a_version_whose_folder_was_removed_is_told_from_a_store_that_is_not_mounted(tmp_path, checkpoint):
    """Neither has to do with room or rights."""
    here = Store(tmp_path / "models")
    here.identify("0123456789abcdef")
    files = here.put(checkpoint, PLACE)
    shutil.rmtree(tmp_path / "models" / PLACE)
    with pytest.raises(StoreError, match=r"card\.json is missing; restore it from a copy, or promote"):
        here.fetch(PLACE, files)
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(StoreError, match=r"models is not there: it has no premask-store-id; mount it"):
        here.fetch(PLACE, files)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written to") as caught:
        Store(tmp_path / "models").check()
    assert "chown" in caught.value.remedy


@pytest.fixture
def s3_url(s3_server) -> str:
    return str(s3_server.bucket(f"b{os.urandom(6).hex()}"))


def store(s3_server, url: str, cache: Path, cache_bytes: int = 1 << 30) -> Store:
    return Store(url, cache, cache_bytes, s3_server.endpoint)


def test_a_copy_that_was_damaged_is_fetched_again(s3_server, s3_url, checkpoint, tmp_path):
    here = store(s3_server, s3_url, tmp_path / "cache")
    files = here.put(checkpoint, PLACE)
    path = here.fetch(PLACE, files).path / "classifier.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"half")
    assert (here.fetch(PLACE, files).path / "classifier.safetensors").read_bytes() == whole
    path.unlink()
    assert (here.fetch(PLACE, files).path / "classifier.safetensors").read_bytes() == whole


def test_a_copy_that_is_whole_is_fetched_once(s3_server, s3_url, checkpoint, tmp_path):
    here = store(s3_server, s3_url, tmp_path / "cache")
    files = here.put(checkpoint, PLACE)
    here.fetch(PLACE, files)
    s3_server.client().rm(f"{s3_url}/{PLACE}", recursive=True)
    assert (here.fetch(PLACE, files).path / "card.json").exists()


def test_an_object_that_is_not_the_published_one_is_never_served(s3_server, s3_url, checkpoint, tmp_path):
    here = store(s3_server, s3_url, tmp_path / "cache")
    files = here.put(checkpoint, PLACE)
    s3_server.client().pipe_file(f"{s3_url}/{PLACE}/classifier.safetensors", b"weights of another")
    with pytest.raises(StoreError, match=r"classifier\.safetensors is damaged"):
        here.fetch(PLACE, files)
    assert not here.local(PLACE).exists()
    assert list((tmp_path / "cache").glob(".incoming-*")) == []


def test_the_cache_keeps_what_was_used_last_and_what_is_in_use(s3_server, s3_url, checkpoint, tmp_path):
    (checkpoint / "classifier.safetensors").write_bytes(os.urandom(100_000))
    here = store(s3_server, s3_url, tmp_path / "cache", 250_000)
    places = [f"project-3/p3-r00{number}-lite0.0123456789ab" for number in range(1, 6)]
    files = here.put(checkpoint, places[0])
    for place in places[1:]:
        here.put(checkpoint, place)

    def there() -> list[int]:
        return [number for number, place in enumerate(places, 1) if here.local(place).exists()]

    held = here.fetch(places[0], files)
    here.fetch(places[1], files)
    assert there() == [1, 2]
    here.fetch(places[2], files)  # room for two: 1 is in use, 2 is not
    assert there() == [1, 3]
    here.fetch(places[0], files)
    del held
    os.utime(tmp_path / "cache" / f"{places[2]}.lock")
    os.utime(tmp_path / "cache" / f"{places[0]}.lock", (1, 1))
    here.fetch(places[3], files)
    assert there() == [3, 4]


def test_many_that_ask_at_once_fetch_it_once(s3_server, s3_url, checkpoint, tmp_path, monkeypatch):
    stores = [store(s3_server, s3_url, tmp_path / "cache") for _ in range(4)]  # as four processes have them
    files = stores[0].put(checkpoint, PLACE)
    downloads = []
    real = Store._download

    def counted(self, *arguments):
        downloads.append(self)
        time.sleep(0.2)
        real(self, *arguments)

    monkeypatch.setattr(Store, "_download", counted)
    threads = [threading.Thread(target=one.fetch, args=(PLACE, files)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads) == 1


def test_a_full_disk_under_the_copies_is_told_with_the_folder(s3_server, s3_url, checkpoint, tmp_path, monkeypatch):
    store = Store(s3_url, tmp_path / "cache", endpoint=s3_server.endpoint)
    files = store.put(checkpoint, PLACE)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._fs, "get", full)
    with pytest.raises(StoreError, match="No space left on device") as error:
        store.fetch(PLACE, files)
    assert error.value.remedy == f"make room for {tmp_path / 'cache'}"


def test_what_a_killed_process_fetched_half_is_removed_a_day_later(s3_server, s3_url, checkpoint, tmp_path):
    here = store(s3_server, s3_url, tmp_path / "cache")
    half, fresh = tmp_path / "cache" / ".incoming-half", tmp_path / "cache" / ".incoming-fresh"
    half.mkdir(parents=True)
    fresh.mkdir()
    os.utime(half, (1, 1))
    here.fetch(PLACE, here.put(checkpoint, PLACE))
    assert (half.exists(), fresh.exists()) == (False, True)


def test_a_bucket_that_is_not_there_is_told(s3_server, tmp_path):
    nowhere = store(s3_server, "s3://no-such-bucket/versions", tmp_path / "cache")
    for ask in (nowhere.identity, nowhere.check):
        with pytest.raises(StoreError, match="bucket") as caught:
            ask()
        assert "PREMASK_MODELS_URL" in caught.value.remedy


def test_a_server_that_is_not_there_is_told_in_seconds(tmp_path):
    nowhere = Store("s3://bucket/versions", tmp_path / "cache", endpoint="http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(StoreError, match="cannot be read") as caught:
        nowhere.identity()
    assert "PREMASK_MODELS_ENDPOINT" in caught.value.remedy
    assert time.monotonic() - begun < 120


def test_an_address_that_nothing_knows_names_the_package(tmp_path):
    with pytest.raises(StoreError, match="nonsense://bucket cannot be opened"):
        Store("nonsense://bucket", tmp_path / "cache")
    with pytest.raises(StoreError, match="gcsfs"):
        Store("gs://bucket/prefix", tmp_path / "cache")


def test_any_other_file_system_of_fsspec_does(tmp_path, checkpoint):
    memory = Store(f"memory://{tmp_path.name}/versions", tmp_path / "cache")
    memory.check()
    memory.identify("first")
    assert memory.identity() == "first"
    files = memory.put(checkpoint, PLACE)
    assert files["gallery/1-frame.jpg"] == File(hashlib.sha256(b"picture").hexdigest(), 7)
    assert (memory.fetch(PLACE, files).path / "gallery" / "1-frame.jpg").read_bytes() == b"picture"
    assert memory.places("3") == [PLACE]
    assert time.time() - memory.written(PLACE) < 600
