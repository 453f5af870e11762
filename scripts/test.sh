#!/usr/bin/env bash
# Installs the package with its test tools into .venv, and runs the whole test suite.
# usage: bash scripts/test.sh [pytest arguments]        PYTHON=python3.12 chooses the interpreter
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install_into_venv test
.venv/bin/python -m pip check
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=25 "$@"
