"""Runs a short episode of genuine D4RL with every robot of the paper; prints one line each.

usage: python scripts/d4rl/check.py
"""

import numpy as np

from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task

ROBOTS = (
    "hopper-medium-v0",
    "halfcheetah-medium-v0",
    "walker2d-medium-v0",
    "pen-human-v0",
    "hammer-human-v0",
    "door-human-v0",
    "relocate-human-v0",
)


def main() -> None:
    for name in ROBOTS:
        task = find_task(name)
        environment = make_environment(task, "d4rl")
        environment.reset(seed=0)
        returns, steps, over = 0.0, 0, False
        while not over:
            action = np.zeros(task.dimensions.action, np.float32)
            _, reward, terminated, truncated, _ = environment.step(action)
            returns, steps, over = returns + reward, steps + 1, terminated or truncated
        environment.close()
        print(f"{name}: {steps} steps, return {returns:.1f}")


if __name__ == "__main__":
    main()
