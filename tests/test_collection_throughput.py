"""The throughput script's figures fit together; nothing is timed here that a test could judge."""

import json
import subprocess
import sys

import pytest
import tiny
from tiny import PROJECT


def test_the_share_is_of_the_very_same_steps(tmp_path):
    command = [sys.executable, str(PROJECT / "scripts" / "collection_throughput.py"), "--policy=random"]
    command += ["--env=Hopper-v4", "--workers=1", "--shards=1", "--gin_bindings=Collection.shard_episodes = 3"]
    environment = tiny.os.environ | {"PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    outcome = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["workers"] == 1 and result["recorded_steps_per_second"] > 0.0
    share = result["recorded_steps_per_second"] / result["simulator_steps_per_second"]  # of the one shard's steps
    assert result["share"] == pytest.approx(share) and result["share_range"] == pytest.approx([share, share])
