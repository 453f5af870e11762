"""The benchmark's counters by hand and what it writes; nothing is timed here that a test could judge."""

import json

import pytest
import tensorflow as tf
from processes import PROJECT, ForkedProcess, Outcome, finish_process, import_script
from tiny import CONFIGS

SMALL = (
    "behavior/Actor.hidden_sizes = (8,)",
    "behavior/Fit.batch_size = 8",
    "behavior/Fit.steps = 100",
)


def run(*arguments: str, cwd) -> Outcome:
    bindings = [f"--gin_bindings={binding}" for binding in SMALL]
    small = ("--rows=200", "--steps=5", "--windows=2", "--work=0.01")
    script, file = str(PROJECT / "scripts" / "benchmark.py"), f"--gin_file={CONFIGS / 'bc' / 'base.gin'}"
    return finish_process(ForkedProcess(script, file, *bindings, *small, *arguments, cwd=cwd))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    outcome = run("--episodes=1", "--load_rows=120000", "--output=result.json", cwd=folder)
    assert outcome.status == 0, outcome.stderr
    return json.loads((folder / "result.json").read_text()), outcome.stdout


def test_multiply_adds_by_hand(measured):
    """Hopper, 8 rows, 11 - 8 - 6 (means and deviations of 3 actions)."""
    (row,) = measured[0]["stages"]
    forward = 8 * 11 * 8 + 8 * 8 * 6
    backward = 8 * 11 * 8 + 8 * 8 * 6 + 8 * 8 * 6  # both layers' weights, and the second one's input
    assert row["stage"] == "behavior"
    assert row["multiply_adds_per_step"] == forward + backward
    assert row["matrix_products_per_step"] == 5


def test_of_a_condition_the_branch_that_has_less_to_do_counts():
    benchmark = import_script("benchmark")
    kernel = tf.ones([4, 2])
    for first, second in ((3, 8), (8, 3)):

        def branches(x, first=first, second=second):
            return tf.cond(x[0, 0] > 0.0, *(lambda n=n: tf.reduce_sum(x[:n] @ kernel) for n in (first, second)))

        products = benchmark.products_of(branches, tf.ones([8, 4]))
        assert products == {(3, 4, 2): 1} and benchmark.multiply_adds(products) == 24


def test_rates_and_shares_fit_together(measured):
    (row,) = measured[0]["stages"]
    # medians of two windows each are their means, so the share's median lies between the extreme ratios
    low, high = row["share_range"]
    assert 0.0 < low <= row["share_of_float32_limit"] <= high
    assert low <= row["steps_per_second"] / row["float32_limit"] <= high
    assert row["float32_gflops"] == pytest.approx(2e-9 * 2560 * row["float32_limit"])
    assert 0.0 < row["compile_seconds"] < 600.0 and row["bfloat16_limit"] > 0.0


def test_the_rest_of_the_report(measured):
    content, stdout = measured
    assert content["evaluation_episodes"] == 1 and content["evaluation_seconds"] > 0.0
    # Hopper: 11 + 3 + 1 + 11 numbers of 4 bytes and 2 flags a row
    assert content["preparation"]["file_mib"] == pytest.approx(120_000 * 106 / 2**20, rel=0.01)
    assert content["preparation"]["rows"] == 120_000 and content["preparation"]["seconds"] > 0.0
    assert content["peak_memory_mib"] > 100.0 and content["host"]["packages"]["tensorflow"]
    assert "| behavior |" in stdout and stdout.splitlines()[-1] == "results: result.json"


def test_two_settings_in_alternation(tmp_path):
    outcome = run("--compare=behavior/Fit.batch_size = 16", "--output=ratio.json", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    (row,) = json.loads((tmp_path / "ratio.json").read_text())["compare"]
    assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
    assert len(row["steps_per_second"]) == 2


def test_a_wrong_setting_is_one_line(tmp_path):
    outcome = run("--gin_bindings=Nothing.here = 3", cwd=tmp_path)
    assert outcome.status == 1 and outcome.stderr.splitlines()[-1].startswith("error: gin: ")
