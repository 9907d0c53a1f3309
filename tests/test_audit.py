"""The audit fails on what is known to be vulnerable, and never passes in silence where it could not look."""

import importlib.util
import json
import sys

import pytest

from tests.conftest import ROOT

spec = importlib.util.spec_from_file_location("audit", ROOT / "docker" / "requirements" / "audit.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

FINE = {"name": "flask", "version": "3.1.3", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not on the index"}
BAD = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.10.1"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([FINE], 0, "a.txt: 1 packages audited, 0 with known vulnerabilities"),
        ([FINE, BAD], 1, "a.txt: jinja2 2.10: PYSEC-1, mended in 2.10.1"),
        ([SKIPPED, SKIPPED], 0, "a.txt: not audited: 2 of 2 packages, for instance torch: not on the index"),
        ([SKIPPED, BAD], 1, "a.txt: not audited: 1 of 2 packages"),
        (None, 0, "a.txt: not audited: no network"),
    ],
)
def test_what_an_audit_found_is_said(capsys, packages, code, says):
    report = "sys.exit('no network')" if packages is None else f"print({json.dumps({'dependencies': packages})!r})"
    assert module.audit("a.txt", [sys.executable, "-c", f"import sys; {report}"]) == code
    assert says in capsys.readouterr().out


def test_an_audit_that_hangs_is_given_up(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    assert module.audit("a.txt", [sys.executable, "-c", "import time; time.sleep(60)"]) == 0
    assert "not audited: no answer in 0.5 s" in capsys.readouterr().out
