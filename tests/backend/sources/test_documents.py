"""JSON and XML of other people: budgets hold before anything is built, and each refusal names the file."""

from pathlib import Path

import pytest

from backend.sources import documents
from backend.sources.documents import read_json, read_text, read_xml
from models.errors import DataError


def written(tmp_path: Path, content: str | bytes, name: str = "a.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_each_of_its_encodings(tmp_path: Path, encoding: str) -> None:
    assert read_json(written(tmp_path, '{"a": ["ä", NaN]}'.encode(encoding)))["a"][0] == "ä"


def test_text_in_utf_16_is_read_and_what_may_be_any_encoding_is_refused(tmp_path: Path) -> None:
    assert read_text(written(tmp_path, "names: [ä]".encode("utf-16"), "data.yaml")) == "names: [ä]"
    for name, reads in (("data.yaml", read_text), ("a.json", read_json)):
        with pytest.raises(DataError, match=rf"{name} cannot be read: it is no text in UTF-8, from byte 2 on"):
            reads(written(tmp_path, '["ä"]'.encode("cp1252"), name))


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "nonsense"])
def test_xml_in_an_encoding_that_is_not_read_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    xml = f'<?xml version="1.0" encoding="{encoding}"?><a b="'.encode() + b"\xb9\xdc" + b'"/>'
    with pytest.raises(DataError, match=r"a\.xml cannot be read: .*encoding.*; save it in UTF-8"):
        read_xml(written(tmp_path, xml, "a.xml"))


def test_half_a_pair_of_code_units_is_replaced(tmp_path: Path) -> None:
    text = r'["\ud83d\ude00", "a\ud83d", "\udE00b", "\\ud83d", "\\\ud83d"]'
    assert read_json(written(tmp_path, text)) == ["😀", "a\ufffd", "\ufffdb", r"\ud83d", "\\\ufffd"]


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[" + "1" * 5000 + "]", b"\xff\xfe\xff", b'["\xff"]'])
def test_damaged_json_is_named(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(DataError, match=r"a\.json cannot be read"):
        read_json(written(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    ["", "<a>", "<a/><b/>", "a", b"\xff\xfe", '<?xml version="1.0" encoding="nonsense"?><a/>', "<a b='1' b='2'/>"],
)
def test_damaged_xml_is_named(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(DataError, match=r"a\.xml cannot be read"):
        read_xml(written(tmp_path, content, "a.xml"))


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY b "0123456789">]><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd" [<!ENTITY % b SYSTEM "http://localhost/b"> %b;]><a/>',
    ],
)
def test_entities_are_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(DataError, match=r"a\.xml is refused"):
        read_xml(written(tmp_path, head, "a.xml"))


def test_elements_have_a_budget_of_depth_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_xml(written(tmp_path, "<a>" * 100 + "</a>" * 100, "a.xml")).tag == "a"
    with pytest.raises(DataError, match="100 within each other"):
        read_xml(written(tmp_path, "<a>" * 101 + "</a>" * 101, "a.xml"))
    monkeypatch.setattr(documents, "MAX_CONTAINERS", 3)
    with pytest.raises(DataError, match="more than 3 elements"):
        read_xml(written(tmp_path, "<a><b/><b/><b/></a>", "a.xml"))


def test_lists_and_values_of_json_have_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_CONTAINERS", 3)
    assert read_json(written(tmp_path, "[[], {}]")) == [[], {}]
    with pytest.raises(DataError, match="more than 3 lists"):
        read_json(written(tmp_path, "[[], {}, []]"))
    monkeypatch.setattr(documents, "MAX_VALUES", 2)
    with pytest.raises(DataError, match="2 values"):
        read_json(written(tmp_path, "[1, 2, 3, 4]"))


@pytest.mark.parametrize("read", [read_json, read_xml, read_text])
def test_bytes_have_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    monkeypatch.setattr(documents, "MAX_TEXT_BYTES", 10)
    with pytest.raises(DataError, match=r"at most 0 MiB are taken"):
        read(written(tmp_path, "<a>" + " " * 10 + "</a>"))  # type: ignore[operator]


def test_a_short_text_is_read_and_another_encoding_named(tmp_path: Path) -> None:
    assert read_text(written(tmp_path, "\ufeffä:1,2,3::")) == "ä:1,2,3::"
    with pytest.raises(DataError, match=r"a\.json cannot be read"):
        read_text(written(tmp_path, b"\xff"))
