"""scripts/latency.py: what it counts, and that it asks each format and a peer."""

import itertools
import json

import numpy as np
import pytest
import tiny
from processes import PROJECT, ForkedProcess, finish_process, import_script
from test_exports import observations, saved, written

SCRIPT = PROJECT / "scripts" / "latency.py"
latency = import_script("latency")


def test_figures_are_of_single_calls_and_the_first_turn_is_not_counted(monkeypatch):
    """A clock by which the n-th call takes n ms: turns of 20 ms end after 6 calls (1 + .. + 6 = 21), 3, 2, .."""
    clock = itertools.accumulate(value for call in itertools.count(1) for value in (0.0, 1e-3 * call))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    asked = []
    (row,) = latency.measure({"fake": asked.append}, [np.zeros([5, 3])], 2)
    assert len(asked) == 11 and row["calls"] == 5  # 7, 8, 9 and 10, 11 ms
    assert row["p50_us"] == pytest.approx(9000.0) and row["p99_us"] == pytest.approx(10960.0)
    assert row["rows_per_second"] == pytest.approx(5 / 9e-3)


def test_each_format_that_there_is_answers_as_the_policy(tmp_path):
    policy, rows = saved(tmp_path, tiny.TinyAgent()), observations(3, 4)
    for name in ("onnx", "litert"):
        written(tmp_path / "source", policy, name)
    formats = {name: {"folder": name} for name in ("onnx", "litert")} | {"saved_model": {"folder": "."}}
    answers = {name: call(rows)["action"] for name, call in latency.calls_of(tmp_path / "source", formats, "mean")}
    assert set(answers) == {"onnx", "litert", "saved_model"}
    for answer in answers.values():
        np.testing.assert_allclose(answer, policy.act(rows, "mean"), atol=1e-6)


def test_the_command_measures_and_writes_a_table(tmp_path):
    """Beside the same policy as a peer, whose file takes any number of rows."""
    policy = saved(tmp_path, tiny.TinyAgent())
    folder = written(tmp_path, policy, "onnx")
    (tmp_path / "source" / "onnx").mkdir()
    (tmp_path / "source" / "onnx" / "mean.onnx").write_bytes((folder / "mean.onnx").read_bytes())
    formats = {"onnx": {"folder": "onnx"}, "saved_model": {"folder": "."}}
    contract = {"observation": {"shift": [0.0] * 3}, "formats": formats}
    (tmp_path / "source" / "policy_contract.json").write_text(json.dumps(contract))
    flags = [f"--policy={tmp_path}/source", f"--peer={folder}/mean.onnx", "--turns=1", "--batches=1,8"]
    done = finish_process(ForkedProcess(str(SCRIPT), *flags, f"--output={tmp_path}/latency.json", cwd=tmp_path))
    assert done.status == 0, done.stderr
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert {(row["format"], row["batch"]) for row in rows} == set(
        itertools.product(["onnx", "saved_model", "peer"], [1, 8])
    )
    assert "| onnx | 8 |" in done.stdout
