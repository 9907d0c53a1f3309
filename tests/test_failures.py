import re
from pathlib import Path

from tests.conftest import ROOT


def test_the_tests_that_the_page_about_failures_names_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")))
    files = Path(ROOT / "tests").rglob("test_*.py")
    defined = {
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert len(named) > 30
    assert named <= defined, named - defined
