"""The image, built by buildah without an engine, and processes in it as an engine would start them.

The base is a Debian of the release that the Dockerfile names, bootstrapped from Debian's packages and tagged with that
name. It brings this machine's own certificate authorities, as a company's base image does.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
CACHE = ROOT / ".cache" / "docker"
BUILDAH = ("buildah", "--root", str(CACHE / "store"), "--runroot", str(CACHE / "run"))
AUTHORITIES = Path("/usr/local/share/ca-certificates")
# Program -> the Debian package that brings it.
NEEDED = {
    "buildah": "buildah",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "psql": "postgresql",
    "unshare": "util-linux",
}

# An engine's part: a root that cannot be written to, a /tmp in memory, the volume at /data, no privileges.
START = """
mount --bind "$ROOT" "$ROOT"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$DATA" "$ROOT/data"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
: >>"$ROOT/etc/hosts"
mount --bind "$HOSTS" "$ROOT/etc/hosts"
mount -o remount,bind,ro "$ROOT"
exec chroot "$ROOT" setpriv --reuid "$ID" --regid "$ID" --clear-groups --no-new-privs --bounding-set=-all \
    env -i -C "$WORKDIR" "$@"
"""


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        root: its root file system.
        config: what it says of itself, as `docker inspect` shows it below Config.
    """

    root: Path
    config: dict[str, Any]

    @property
    def user(self) -> str:
        """The number of the user it runs as."""
        return str(self.config["User"]).partition(":")[0]

    def command(
        self, data: Path, environ: Mapping[str, str], command: Sequence[str], hosts: Path = Path("/etc/hosts")
    ) -> list[str]:
        """A command of this machine that runs one in the image.

        Args:
            data: what is mounted as /data.
            environ: variables besides the image's own.
            command: what runs, in the image's words.
            hosts: names and addresses, in place of this machine's.
        """
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        outside = {
            "ROOT": self.root,
            "DATA": data,
            "HOSTS": hosts,
            "ID": self.user,
            "WORKDIR": self.config["WorkingDir"],
        }
        # fmt: off
        return [
            "env", *(f"{name}={value}" for name, value in outside.items()),
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", START, "sh", *variables, *command,
        ]
        # fmt: on

    def run(
        self,
        data: Path,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        hosts: Path = Path("/etc/hosts"),
    ) -> tuple[int, str]:
        """Run a command to its end; gives the exit code, and what it wrote."""
        line = self.command(data, environ or {}, command, hosts)
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr


def stop(started: subprocess.Popen[bytes]) -> int:
    """End what `command` started as `docker stop` does, SIGTERM first; gives its exit code."""
    if started.poll() is None:
        # unshare itself heeds no signal; the process in the image is its child.
        for inside in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split():
            os.kill(int(inside), signal.SIGTERM)
    try:
        return started.wait(60)
    except subprocess.TimeoutExpired:
        started.kill()
        raise


def missing() -> list[str]:
    """The Debian packages that have to be installed first."""
    return sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})


def base_name() -> str:
    """The image that the Dockerfile begins with."""
    found = re.search(r"^ARG DEBIAN=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found, "docker/Dockerfile names no base"
    return found[1]


@contextmanager
def built(target: str) -> Iterator[Image]:
    """Build a target of the Dockerfile; its root file system goes when it is no longer needed."""
    _ensure_base(base_name())
    tag = f"localhost/premask:{target}"
    isolated = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    arguments = ["--layers=false", "--format=docker", "--network=host", "--pull-never", f"--target={target}"]
    _buildah("bud", *arguments, f"--file={DOCKERFILE}", f"--tag={tag}", str(ROOT), env=isolated)
    try:
        container = _buildah("from", "--pull-never", tag).strip()
        try:
            config = json.loads(_buildah("inspect", "--type=image", tag))["Docker"]["config"]
            yield Image(Path(_buildah("mount", container).strip()), config)
        finally:
            _buildah("rm", container)
    finally:
        _buildah("rmi", tag)


def _ensure_base(name: str) -> None:
    if name.partition(":")[0] in _buildah("images", "--format={{.Name}}").replace("docker.io/library/", "").split():
        return
    release = re.fullmatch(r"debian:([a-z]+)-slim", name)
    assert release, f"the base is {name}; this test can only make debian:RELEASE-slim"
    archive = CACHE / f"{release[1]}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    # What Debian's slim images leave out.
    slim = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")]
    authorities = (
        [f"--customize-hook=copy-in {AUTHORITIES} {Path(AUTHORITIES).parent}"] if Path(AUTHORITIES).exists() else []
    )
    _run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--dpkgopt=force-unsafe-io",
            *slim,
            *authorities,
            release[1],
            str(archive),
        ]
    )
    container = _buildah("from", "scratch").strip()
    _buildah("add", container, str(archive), "/")
    _buildah("commit", "--rm", container, f"docker.io/library/{name}")
    archive.unlink()


def _buildah(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    return _run([*BUILDAH, *arguments], env)


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout
