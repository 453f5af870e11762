#!/usr/bin/env bash
# Installs genuine D4RL (d4rl 1.1 on gym 0.23, mujoco_py and MuJoCo 2.1.0) next to this package.
# usage: scripts/setup_d4rl.sh [python]      default: the Python of the active virtual environment
# Needs Linux on x86-64, a C compiler, and Python 3.10 to 3.12; no OpenGL, no root. Takes two to three minutes.
set -euo pipefail

fail() { echo "setup_d4rl.sh: $1" >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -gt 1 ]; then fail "more than one argument: give the path of a Python, or nothing"; fi
if [ $# -eq 0 ] && [ -z "${VIRTUAL_ENV:-}" ]; then
    fail "no virtual environment is active: activate one, or give the path of its Python"
fi
python=${1:-$VIRTUAL_ENV/bin/python}
command -v "$python" >/dev/null || fail "there is no Python at $python"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
    fail "$python is not Python 3.10, 3.11 or 3.12"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "MuJoCo 2.1.0 comes here for Linux on x86-64 only"
command -v "${CC:-cc}" >/dev/null || fail "no C compiler: install gcc (Debian: apt-get install gcc)"

echo "== this package and what D4RL needs"
# The pip that comes with Python 3.10 does not come to an end with these requirements.
"$python" -m pip install --quiet --upgrade pip
# All extras at once: gym needs numpy < 2, and versions of the other packages must be chosen to suit.
"$python" -m pip install --quiet -e "$root[test,adroit,d4rl]"
echo "== D4RL and MuJoCo 2.1.0"
# free-mujoco-py forbids Python 3.11 and later; compiled below, it works there.
"$python" -m pip install --quiet --no-deps --ignore-requires-python -r "$root/scripts/d4rl/requirements-nodeps.txt"

if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("mjrl") is not None)'; then
    echo "== stand-in for mjrl"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    cp -r "$root/scripts/d4rl/mjrl_stub/." "$scratch"  # pip builds inside the folder that it installs from
    "$python" -m pip install --quiet --no-deps "$scratch"
fi

echo "== compiling mujoco_py"
"$python" "$root/scripts/d4rl/build_mujoco_py.py"
echo "== running each robot"
"$python" "$root/scripts/d4rl/check.py"
echo "genuine D4RL works: backend 'd4rl' (or 'auto') of make_environment"
