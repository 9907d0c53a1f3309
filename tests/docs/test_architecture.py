"""The files that the architecture page names exist, and its walks are short."""

import re

from tests.docs.shown import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = re.findall(r"^## A walk: .*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:backend|models|tests)/[\w./]+)`", PAGE))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_tree_names_every_package() -> None:
    tree = PAGE.split("```text\n")[1].split("```")[0]
    for folder in ("backend", "models"):
        for package in (ROOT / folder).glob("*/__init__.py"):
            assert re.search(rf"\b{package.parent.name}/", tree), package


def test_a_walk_has_at_most_twelve_hops() -> None:
    assert [len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) for walk in WALKS] == [12, 12]
