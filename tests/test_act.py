"""Actions by lines: the policy's own, each answered at once; what is no observation is refused by its line."""

import io
import json
import os
import select
import subprocess
import sys

import numpy as np
import pytest
import tiny
from remembering import RememberingAgent, remembered

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy

SIZES = Dimensions(3, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("act") / "policy"
    DeployedPolicy(tiny.TinyAgent(SIZES), SIZES, tiny.make_dataset(10, SIZES).scaling).save(directory, {})
    return directory


def act(monkeypatch, policy, text, *flags):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return tiny.run_here("act", f"--policy={policy}", *flags)


OBSERVATIONS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_rows_of_numbers(exported, monkeypatch):
    text = "\n".join(",".join(map(str, row)) for row in OBSERVATIONS) + "\n"
    done = act(monkeypatch, exported, text)
    assert done.status == 0, done.stderr
    found = np.array([[float(cell) for cell in line.split(",")] for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_array_equal(found, LoadedPolicy(exported).act(OBSERVATIONS))


def test_json_and_draws_with_seeds(exported, monkeypatch):
    """A seed of one's own, or the command's and the line's number."""
    lines = [{"observation": OBSERVATIONS[0].tolist(), "seed": 9}, {"observation": OBSERVATIONS[1].tolist()}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = act(monkeypatch, exported, text, "--action=sample", "--seed=5")
    found = [json.loads(line)["action"] for line in done.stdout.splitlines()]
    way = LoadedPolicy(exported).way("sample")
    expected = [way.act(OBSERVATIONS[i : i + 1], (), np.array([seed], np.int32))[0][0] for i, seed in ((0, 9), (1, 6))]
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


def test_a_policy_that_remembers_begins_anew_after_an_empty_line(tmp_path, monkeypatch):
    agent = RememberingAgent(SIZES)
    DeployedPolicy(agent, SIZES, tiny.make_dataset(10, SIZES).scaling).save(tmp_path / "policy", {})
    row = ",".join(map(str, OBSERVATIONS[0]))
    done = act(monkeypatch, tmp_path / "policy", f"{row}\n{row}\n\n{row}\n")
    assert done.status == 0, done.stderr
    found = [float(line) for line in done.stdout.splitlines()]
    expected = remembered(np.tile(OBSERVATIONS[0], (2, 1)), 1)[:, 0]
    np.testing.assert_allclose(found, [*expected, expected[0]], rtol=1e-5)


def test_each_line_is_answered_before_the_next_is_read(exported):
    command, pipe = [sys.executable, "-m", "brac_plus_tf.act", f"--policy={exported}"], subprocess.PIPE
    # a buffer of Python's own, whatever the surroundings say of it
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tiny.PROJECT, env=surroundings) as process:
        for row in OBSERVATIONS[:2]:
            process.stdin.write(",".join(map(str, row)) + "\n")
            process.stdin.flush()
            answered, _, _ = select.select([process.stdout], [], [], 60.0)
            if not answered:
                process.kill()
            assert answered and -1.0 <= float(process.stdout.readline()) <= 1.0
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("wrong", ["1,2", "1,2,x", "1,2,nan", '{"observation": 3}', '{"seed": 1}', "{", "[1,2,3]"])
def test_what_is_no_observation_is_refused_by_its_line(exported, monkeypatch, wrong):
    done = act(monkeypatch, exported, f"1,2,3\n{wrong}\n1,2,3\n")
    assert done.status == 1 and len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith("error: stdin, line 2: ") and len(done.stderr.splitlines()) == 1
