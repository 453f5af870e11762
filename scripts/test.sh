#!/usr/bin/env bash
# Makes a virtual environment, installs the package with its test tools, and runs the whole test suite.
# usage: bash scripts/test.sh [pytest arguments]        PYTHON=python3.12 chooses the interpreter
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
interpreter=${PYTHON:-python3}
"$interpreter" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || {
    echo "test.sh: $interpreter is not Python 3.10, 3.11 or 3.12; name one with PYTHON=..." >&2
    exit 1
}
if [ ! .venv-test/installed -nt setup.py ]; then
    "$interpreter" -m venv .venv-test
    .venv-test/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
    touch .venv-test/installed
fi
.venv-test/bin/python -m pip check
.venv-test/bin/ruff check .
.venv-test/bin/ruff format --check --quiet .
.venv-test/bin/mypy
.venv-test/bin/python -m pytest --numprocesses=2 --dist=loadfile --durations=25 "$@"
