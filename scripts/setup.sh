#!/bin/sh
# Makes a virtual environment with flash_moe and its development tools in it.
#   sh scripts/setup.sh [DIRECTORY]      (PYTHON names the interpreter, default python3)
set -eu
venv=${1:-.venv}
python=${PYTHON:-python3}

fail() {
    echo "setup: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "no $python. On Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old: Python 3.10 or newer is needed (set PYTHON)"
# Debian splits ensurepip off; without it the environment would have no pip.
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module. On Debian: apt-get install python3-venv"

"$python" -m venv "$venv"
case $(uname -s) in
    Darwin) extras=dev ;;          # MLX for macOS brings Metal
    *) extras=cpu,dev ;;
esac
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
