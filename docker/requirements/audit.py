"""Look up the packages of a lock file in the registry's list of known vulnerabilities: audit.py LOCK...

Exit code 0: none is known, or the list cannot be reached, which is said; 1: some are known, each with the release that
mends it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

AUDIT = (str(Path(sys.executable).with_name("pip-audit")), "--format", "json", "--progress-spinner", "off")
SECONDS = 300  # for one file


def audit(lock: str, command: Sequence[str] = AUDIT) -> int:
    """Audit one lock file and say what came of it; returns the exit code."""
    command = [*command, "--disable-pip", "--require-hashes", "-r", lock]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{lock}: not audited: no answer in {SECONDS} s")
        return 0
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it ended before it could report: there is no network, for instance
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        print(f"{lock}: not audited: {last[:300]}")
        return 0
    skipped = [package for package in packages if "skip_reason" in package]
    found = [package for package in packages if package.get("vulns")]
    for package in found:
        for one in package["vulns"]:
            mended = ", ".join(one["fix_versions"]) or "no release yet"
            print(f"{lock}: {package['name']} {package['version']}: {one['id']}, mended in {mended}")
    if skipped:
        example = f"{skipped[0]['name']}: {skipped[0]['skip_reason']}"
        print(f"{lock}: not audited: {len(skipped)} of {len(packages)} packages, for instance {example}")
    if len(skipped) < len(packages):
        print(f"{lock}: {len(packages) - len(skipped)} packages audited, {len(found)} with known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(max([audit(lock) for lock in sys.argv[1:]]))
