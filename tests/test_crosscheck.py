"""The cross-check with d3rlpy: what it is given, against a file made by hand; d3rlpy itself is not needed for that."""

import json
import sys

import gin
import h5py
import numpy as np
import pytest
import tiny

sys.path.insert(0, str(tiny.PROJECT / "scripts"))

import crosscheck_table
import d3rlpy_crosscheck

from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs import configuration


def test_the_file_is_given_as_it_is_but_for_an_end_that_no_flag_says(tmp_path):
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.arange(8.0).reshape(4, 2), np.full((4, 1), 0.5)
        file["rewards"] = np.array([1.0, 2.0, 3.0, 4.0])
        file["terminals"], file["timeouts"] = np.array([0, 1, 0, 0], bool), np.zeros(4, bool)
    given = d3rlpy_crosscheck.read(path)
    assert {values.dtype.name for values in given.values()} == {"float32"}
    assert given["rewards"].shape == (4, 1) and given["observations"][3].tolist() == [6.0, 7.0]
    assert given["terminals"].tolist() == [0.0, 1.0, 0.0, 0.0] and given["timeouts"].tolist() == [0.0, 0.0, 0.0, 1.0]
    with h5py.File(path, "a") as file:
        file["terminals"][3] = True
    assert d3rlpy_crosscheck.read(path)["timeouts"].tolist() == [0.0] * 4


@pytest.mark.parametrize("environment", d3rlpy_crosscheck.REFERENCE)
def test_scores_are_this_packages(environment):
    returns = np.array([-100.0, 0.0, 3000.0])
    expected = find_task(environment).normalized_score(returns)
    np.testing.assert_allclose(d3rlpy_crosscheck.score(returns, environment), expected, rtol=1e-6)


@pytest.fixture
def parsed():
    """Reads gin files; gives what asks for a setting of theirs."""

    def parse(*files):
        configuration.parse(files, [])
        return gin.query_parameter

    yield parse
    gin.clear_config()


@pytest.mark.parametrize("agent", [agent for agent in d3rlpy_crosscheck.STEPS if agent != "bc"])
def test_it_trains_and_looks_as_often_as_the_short_protocol(parsed, agent):
    value = parsed(f"{agent}/base.gin", f"{agent}/short_protocol.gin")
    assert value("Training.epochs") * value("Training.steps_per_epoch") == d3rlpy_crosscheck.STEPS[agent]
    assert value("Training.steps_per_epoch") == d3rlpy_crosscheck.EPOCH_STEPS
    assert value("Loop.evaluation_epochs") == d3rlpy_crosscheck.EVALUATION_EPOCHS[agent]


@pytest.mark.parametrize("dataset", d3rlpy_crosscheck.PENALTIES)
def test_rebracs_penalties_are_the_datasets(parsed, dataset):
    value = parsed(f"rebrac/{dataset.removesuffix('.hdf5').replace('-', '_')}.gin")
    penalties = value("ReBRAC.policy_penalty"), value("ReBRAC.value_penalty")
    assert d3rlpy_crosscheck.PENALTIES[dataset] == penalties


def test_the_table_sets_the_seeds_of_both_beside_each_other(tmp_path):
    """IQL's 1 and 5 reach into 4 and 9; TD3+BC's 1 and 2 stay below 3; of CQL there are runs of d3rlpy alone."""
    theirs = [("iql", 0, 1.0), ("iql", 1, 5.0), ("td3_bc", 0, 1.0), ("td3_bc", 1, 2.0), ("cql", 0, 7.0), ("bc", 0, 8.0)]
    curve = [[step, 5.0] for step in range(3)] + [[step, float(step)] for step in range(10)]  # the last ten: 4.5
    for agent, seed, score in theirs:
        record = {"dataset": "d.hdf5", "agent": agent, "score_mean": score, "curve": curve if agent == "td3_bc" else []}
        write(tmp_path / "d3rlpy" / f"d__{agent}__{seed}.json", record)
    for name, score in (
        ("gym_short/d__iql_short_protocol__0.json", 9.0),
        ("gym_short/d__iql_short_protocol__1.json", 4.0),
        ("gym_short/d__td3_bc_short_protocol__0.json", 3.0),
        ("crosscheck/d__td3_bc_short_protocol_cloning__0.json", 8.0),
    ):
        write(tmp_path / name, {"evaluation": {"score_mean": score}, "curve": [[1, 4.0], [2, 6.0]]})
    assert crosscheck_table.kept(tmp_path).splitlines()[2:] == [
        "| d | bc | 8.0 | 8.0 | meet |  | 5.0 |  |",
        "| d | td3_bc | 1.0, 2.0 | 3.0 | apart | 4.5, 4.5 | 5.0 | apart |",
        "| d | iql | 1.0, 5.0 | 9.0, 4.0 | meet |  | 5.0, 5.0 |  |",
    ]


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
