#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated and exported policy, in less than ten minutes on two cores.
# usage: bash scripts/quickstart.sh                    with python3
#        PYTHON=python3.11 bash scripts/quickstart.sh  with another interpreter (3.10, 3.11 or 3.12)
# Makes .venv/ and runs/ in the checkout, nothing elsewhere. Run again, it goes on where it was stopped, and reports a
# finished run without training anew. Exit status 0 only if the policy earns at least 1.5 times what its data do.
set -euo pipefail

fail() { echo "quickstart.sh: $1" >&2; exit 1; }

[ $# -eq 0 ] || fail "unexpected argument '$1': it takes none; choose the interpreter with PYTHON=..."
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd)
run_dir=runs/hopper-quickstart/quickstart/0
policy=runs/quickstart_policy

interpreter=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then interpreter=.venv/bin/python; fi
command -v "$interpreter" >/dev/null || fail "$interpreter: no such program; name one with PYTHON=..."
"$interpreter" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
    fail "$interpreter is not Python 3.10, 3.11 or 3.12; name one with PYTHON=... (and remove .venv, if it is that)"

echo "== 1/5 installing into .venv"
if [ ! .venv/installed -nt setup.py ]; then
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$interpreter" -m venv .venv ||
        fail "no virtual environment: install Python's venv module (Debian: apt-get install python3-venv)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[mujoco]' ||
        fail "installing failed; pip says why above"
    touch .venv/installed
fi

echo "== 2/5 training on quickstart/hopper-quickstart.hdf5"
.venv/bin/python -m brac_plus_tf.train --gin_file=gin_configs/quickstart.gin

echo "== 3/5 evaluating"
.venv/bin/python -m brac_plus_tf.evaluate --run_dir="$run_dir"

echo "== 4/5 exporting"
if [ -f "$policy/policy.json" ]; then rm -r "$policy"; fi # an earlier export, perhaps of another run
.venv/bin/python -m brac_plus_tf.export --run_dir="$run_dir" --output="$policy"

echo "== 5/5 acting with the export, TensorFlow alone, and comparing with the data"
.venv/bin/python scripts/quickstart_report.py --run_dir="$run_dir" --policy="$policy"

echo
echo "run:     $root/$run_dir (metrics.csv, evaluation.json, checkpoints, TensorBoard events)"
echo "policy:  $root/$policy (a SavedModel; scripts/quickstart_act.py shows how to act with it)"
