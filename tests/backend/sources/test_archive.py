"""Archives come from other people: nothing lands outside of its folder, and nothing fills the disk."""

import stat
import zipfile
from pathlib import Path

import pytest

from backend.sources import archive
from backend.sources.archive import unpack
from models.errors import DataError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def zipped(path: Path, *files: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files:
            file.writestr(name, data)
    return path


def test_files_come_out_as_they_went_in(tmp_path: Path, out: Path) -> None:
    unpack(zipped(tmp_path / "a.zip", ("a.txt", b"one"), ("sub/b.txt", b"two")), out)
    assert (out / "a.txt").read_bytes() == b"one"
    assert (out / "sub" / "b.txt").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "sub/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_a_file_that_would_land_outside_refuses_the_archive(tmp_path: Path, out: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", ("good.txt", b""), (name, b"evil"))
    with pytest.raises(DataError, match=r"a\.zip is refused: .*evil\.txt' would land outside"):
        unpack(path, out)
    assert list(out.iterdir()) == []


def test_a_link_is_a_file_with_its_target_in_it(tmp_path: Path, out: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    unpack(zipped(tmp_path / "a.zip", (link, b"/etc/passwd")), out)
    assert not (out / "link").is_symlink()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "HARMLESS", 1 << 20)
    path = zipped(tmp_path / "a.zip", ("zeros", bytes(5 << 20)))
    with pytest.raises(DataError, match=r"a\.zip is refused: it would unpack to 1 files of 0\.00524 GB"):
        unpack(path, out)
    assert list(out.iterdir()) == []


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DataError, match="point TMPDIR to a larger disk"):
        unpack(zipped(tmp_path / "a.zip", ("a", bytes(100))), out)


def test_an_encrypted_archive_is_refused(tmp_path: Path, out: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", b"secret"))
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip is encrypted; unpack it"):
        unpack(path, out)


@pytest.mark.parametrize("damage", [lambda d: d[:40], lambda d: d.replace(b"hello", b"hallo")])
def test_a_damaged_archive_is_named(tmp_path: Path, out: Path, damage: object) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", b"hello")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked: .*export it again"):
        unpack(path, out)
