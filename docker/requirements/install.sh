#!/bin/sh
# install.sh ENVIRONMENT LOCK GIGABYTES NEWEST: a virtual environment with exactly the packages of LOCK, checked by their
# hashes, on a Python from 3.11 to 3.NEWEST.
# Every way it can fail ends in one sentence that says what to do, and exit code 1.
set -eu

environment=$1 lock=$2 gigabytes=$3 newest=$4
here=$(dirname "$0")

stop() {
    printf 'premask: %s\n' "$1" >&2
    exit 1
}

supported() { # is this command a Python that the lock is made for?
    "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" >/dev/null 2>&1
}

if ! supported "$environment/bin/python"; then
    python=
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if supported "$candidate"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || stop "no Python 3.11 to 3.$newest was found for $environment (python3: $(python3 --version 2>/dev/null || echo none)); install one, or name it: make PYTHON=/path/to/python3.12"
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        stop "$python cannot create virtual environments; install its venv module (on Debian and Ubuntu: apt install python3-venv) and run again"

    "$python" -m venv --clear "$environment" || stop "$environment could not be created (see above); check that this folder can be written"
fi

python=$environment/bin/python
if [ ! -e "$environment/.installed" ]; then # not yet complete: what is there already counts
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    present=$(du -sk "$environment" | awk '{ print $1 }')
    [ $(((free + present) / 1048576)) -ge "$gigabytes" ] ||
        stop "$environment needs about $gigabytes GB but only $((free / 1048576)) GB are free here; make room on this disk, or move the folder to a larger one, and run again"
fi

failed="the packages could not be installed (see above); check the network and the disk, or name a mirror of the package index by PIP_INDEX_URL, and run again: what is already fetched is kept"
"$python" -m pip install --quiet --disable-pip-version-check --retries 2 --require-hashes -r "$here/uv.txt" || stop "$failed"

# uv does not read pip's configuration: hand over the mirror that pip was told to use.
mirror=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
[ -z "$mirror" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$mirror}"
VIRTUAL_ENV=$(cd "$environment" && pwd)
export VIRTUAL_ENV
"$environment/bin/uv" pip sync --require-hashes "$lock" || stop "$failed"
