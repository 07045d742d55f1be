#!/bin/sh
# Runs the tests that touch mlx-lm against its newest release on PyPI, even one that pyproject.toml
# does not allow yet, to find what it breaks before users do.
#   sh scripts/newest_mlx_lm.sh [DIRECTORY of the virtual environment]
set -eu
venv=${1:-.venv-newest}
cd "$(dirname "$0")/.."
[ -x "$venv/bin/python" ] || sh scripts/setup.sh "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade mlx-lm
"$venv/bin/python" -c 'from importlib.metadata import version; print("mlx-lm", version("mlx-lm"))'
exec "$venv/bin/python" -m pytest -q tests/compat tests/model tests/generation tests/grammar \
    tests/tools tests/server tests/pack/convert tests/pack/sources
