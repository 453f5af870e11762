"""The throughput script's figures fit together; nothing is timed here that a test could judge."""

import json

import pytest
from processes import PROJECT, ForkedProcess, finish_process


def test_the_share_is_of_the_very_same_steps(tmp_path):
    script = str(PROJECT / "scripts" / "collection_throughput.py")
    arguments = ("--policy=random", "--env=Hopper-v4", "--workers=1", "--shards=1")
    binding = "--gin_bindings=Collection.shard_episodes = 3"
    outcome = finish_process(ForkedProcess(script, *arguments, binding, cwd=tmp_path))
    assert outcome.status == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["workers"] == 1 and result["recorded_steps_per_second"] > 0.0
    share = result["recorded_steps_per_second"] / result["simulator_steps_per_second"]  # of the one shard's steps
    assert result["share"] == pytest.approx(share) and result["share_range"] == pytest.approx([share, share])
