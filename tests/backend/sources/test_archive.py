"""Archives come from other people: nothing lands outside of its folder, and nothing fills the disk."""

import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.sources import archive
from backend.sources.archive import UNREADABLE, is_archive, unpack, without_outer_folders
from backend.sources.conversion import LeftOut
from backend.sources.finding import ImageFiles
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


def test_a_link_is_not_unpacked(tmp_path: Path, out: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    unpacked = unpack(zipped(tmp_path / "a.zip", (link, b"/etc/passwd"), ("a.txt", b"a")), out)
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    assert unpacked.left_out == [LeftOut("link", "it is a link, which is not followed")]


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


def test_a_damaged_archive_is_named(tmp_path: Path, out: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", b"hello"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked: .*export it again"):
        unpack(path, out)


def test_a_damaged_member_ends_nothing(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", b"hello")
        file.writestr("b.txt", b"fine")
    path.write_bytes(path.read_bytes().replace(b"hello", b"hallo"))
    (row,) = unpack(path, out).left_out
    assert row.what == "a.txt"
    assert "cannot be unpacked" in row.why
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {"a.txt": UNREADABLE, "b.txt": b"fine"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("second", "how", "content"),
    [(b"one", "the first is read", b"one"), (b"two", "they differ, and neither is read", UNREADABLE)],
)
def test_two_members_of_one_name_are_read_if_they_are_alike(
    tmp_path: Path, out: Path, second: bytes, how: str, content: bytes
) -> None:
    """Tools differ in which of them counts."""
    path = zipped(tmp_path / "a.zip", ("a.txt", b"one"), ("a.txt", second))
    assert unpack(path, out).left_out == [LeftOut("a.txt", f"the archive has two files of this name; {how}")]
    assert (out / "a.txt").read_bytes() == content


def test_a_second_name_of_a_file_in_a_tar_is_a_file(tmp_path: Path, out: Path) -> None:
    """tar packs it as a link to the first, and a mask that was not unpacked would count as one that shows nothing."""
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "b.txt").hardlink_to(tmp_path / "a.txt")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
        tar.add(tmp_path / "b.txt", "b.txt")
        elsewhere = tarfile.TarInfo("c.txt")
        elsewhere.type, elsewhere.linkname = tarfile.LNKTYPE, "/etc/passwd"
        tar.addfile(elsewhere)
    assert unpack(tmp_path / "a.tar", out).left_out == [LeftOut("c.txt", "it is a link, which is not followed")]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        "a.txt": b"one",
        "b.txt": b"one",
        "c.txt": UNREADABLE,
    }


def test_what_an_operating_system_adds_is_left_behind(tmp_path: Path, out: Path) -> None:
    names = [
        "__MACOSX/images/._a.png",
        "images/._a.png",
        ".DS_Store",
        "images/Thumbs.db",
        "desktop.ini",
        "images/a.png",
    ]
    assert unpack(zipped(tmp_path / "a.zip", *((name, b"x") for name in names)), out).left_out == []
    assert [path for path in out.rglob("*") if path.is_file()] == [out / "images" / "a.png"]


@pytest.mark.parametrize("name", [".", "./", "a/.", "a" * 300 + ".png", "a\x01b.png"])
def test_odd_names_end_nothing(tmp_path: Path, out: Path, name: str) -> None:
    unpacked = unpack(zipped(tmp_path / "a.zip", (name, b"odd"), ("b.txt", b"fine")), out)
    assert (out / "b.txt").read_bytes() == b"fine"
    assert all(row.what for row in unpacked.left_out)


def written_as(path: Path, name: str, encoding: str) -> Path:
    """A zip with one file whose name is written in a code page, without saying so."""
    raw = name.encode(encoding)
    placeholder = "x" * len(raw)
    zipped(path, (placeholder, b"x"))
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), raw))
    return path


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("кадр_7.png", "cp866"), ("größe.png", "cp437"), ("größe.png", "utf-8"), ("кадр 7.png", "utf-8")],
)
def test_names_in_old_code_pages_come_out_as_they_were(tmp_path: Path, out: Path, name: str, encoding: str) -> None:
    unpack(written_as(tmp_path / "a.zip", name, encoding), out)
    assert [path.name for path in out.iterdir()] == [name]


@pytest.mark.parametrize(("name", "encoding"), [("größe.png", "cp1252"), ("画像.png", "cp932"), ("кадр.png", "cp1251")])
def test_other_readings_of_a_name_find_the_file(tmp_path: Path, out: Path, name: str, encoding: str) -> None:
    """The annotations have the right name, and so tell which reading of the archive's is right."""
    unpacked = unpack(written_as(tmp_path / "a.zip", name, encoding), out)
    (file,) = out.iterdir()
    assert ImageFiles([out], unpacked.aliases).find(f"images/{name}") == file


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_tar_files_are_unpacked(tmp_path: Path, out: Path, ending: str, mode: Any) -> None:
    (tmp_path / "a.txt").write_bytes(b"one")
    path = tmp_path / f"a.{ending}"
    with tarfile.open(path, mode) as tar:
        tar.add(tmp_path / "a.txt", "sub/a.txt")
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert is_archive(path)
    assert [row.what for row in unpack(path, out).left_out] == ["link"]
    assert (out / "sub" / "a.txt").read_bytes() == b"one"


def test_a_packed_tar_bomb_is_refused_while_it_is_listed(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HARMLESS", 1 << 20)
    (tmp_path / "zeros").write_bytes(bytes(5 << 20))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "zeros", "zeros")
    with pytest.raises(DataError, match=r"a\.tar\.gz is refused: it would unpack to"):
        unpack(tmp_path / "a.tar.gz", out)


@pytest.mark.parametrize("outer", ["", "my export/", "a/b/c/"])
def test_outer_folders_are_taken_off(tmp_path: Path, out: Path, outer: str) -> None:
    unpack(zipped(tmp_path / "a.zip", (f"{outer}images/a.png", b"x"), (f"{outer}classes.txt", b"x")), out)
    assert without_outer_folders(out) == out / outer


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=20), st.randoms())
def test_any_damage_is_a_sentence(changes: list[tuple[int, int]], random: Random) -> None:
    """Bytes of an archive are changed: it is refused, or what can be read comes out."""
    with tempfile.TemporaryDirectory() as temporary:
        path, out = Path(temporary) / "a.zip", Path(temporary) / "out"
        out.mkdir()
        files = [(f"images/{number}.png", random.randbytes(50)) for number in range(6)]
        zipped(path, *files)
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[place % len(data)] = value
        path.write_bytes(data)
        try:
            unpacked = unpack(path, out)
        except DataError:
            return
        assert all(row.what and row.why for row in unpacked.left_out)
        assert all(file.resolve().is_relative_to(out.resolve()) for file in out.rglob("*"))


def test_a_member_without_a_name_is_a_sentence(tmp_path: Path) -> None:
    path, out = zipped(tmp_path / "a.zip", ("x", b"1"), ("images/a.png", b"2")), tmp_path / "out"
    out.mkdir()
    data = bytearray(path.read_bytes())
    for place in (data.find(b"PK\x03\x04") + 30, data.find(b"PK\x01\x02") + 46):
        data[place] = 0  # a name ends at its first zero
    path.write_bytes(data)
    assert [row.why for row in unpack(path, out).left_out]
    assert (out / "images" / "a.png").is_file()
