"""What the tests of recording and of collecting play: an exported policy known by its formula, and small plans."""

import pathlib

from tiny import TinyAgent

from brac_plus_tf.collection.recording import Collection, Part, Plan
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.tasks import Task, find_task
from brac_plus_tf.policies.saved_policy import DeployedPolicy

TASK = find_task("Hopper-v4")


def export_policy(directory: pathlib.Path, task: Task = TASK) -> pathlib.Path:
    """An export whose `mean` acts by tanh of the first entries of an observation, in halves of the action's range."""
    DeployedPolicy(TinyAgent(task.dimensions), task.dimensions, task_scaling(task)).save(directory, {})
    return directory


def plan(policy, *parts: Part, steps: int = 300, seed: int = 0, **settings) -> Plan:
    values = {"parts": parts or (Part(),), "action": "mean", "shard_episodes": 6, "width": 4}
    return Plan(TASK, "gymnasium", policy, Collection(**(values | settings)), steps, seed)
