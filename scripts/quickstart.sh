#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated and exported policy, in less than ten minutes on two cores.
# usage: bash scripts/quickstart.sh                    with python3
#        PYTHON=python3.11 bash scripts/quickstart.sh  with another interpreter (3.10, 3.11 or 3.12)
# Makes .venv/ and runs/ in the checkout, nothing elsewhere. Run again, it goes on where it was stopped, and reports a
# finished run without training anew. Exit status 0 only if the policy earns at least 1.5 times what its data do.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
[ $# -eq 0 ] || fail "unexpected argument '$1': it takes none; choose the interpreter with PYTHON=..."
root=$(pwd)
run_dir=runs/hopper-quickstart/quickstart/0
policy=runs/quickstart_policy

echo "== 1/5 installing into .venv"
install_into_venv mujoco

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
