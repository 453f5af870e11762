"""d3rlpy's updates, timed for scripts/benchmark.py in an interpreter of their own, where d3rlpy 2.8.1 is installed.

usage: python scripts/d3rlpy_worker.py ALGORITHM BATCH_SIZE OBSERVATION ACTION WIDTH,WIDTH...

For each line on stdin, a number of steps, it takes that many (a batch drawn, one update) and prints the seconds.
"""

import sys
import time

import d3rlpy
import numpy as np
from d3rlpy.models import VectorEncoderFactory

ROWS, EPISODE = 100_000, 1000


def random_data(observation: int, action: int) -> d3rlpy.dataset.MDPDataset:
    """Episodes of random numbers."""
    generator = np.random.default_rng(0)
    ends = (np.arange(ROWS) % EPISODE == EPISODE - 1).astype(np.float32)
    return d3rlpy.dataset.MDPDataset(
        observations=generator.normal(size=(ROWS, observation)).astype(np.float32),
        actions=generator.uniform(-0.9, 0.9, (ROWS, action)).astype(np.float32),
        rewards=generator.uniform(size=(ROWS, 1)).astype(np.float32),
        terminals=ends,
    )


def build(name: str, batch_size: int, widths: list[int]) -> d3rlpy.algos.QLearningAlgoBase:
    """The algorithm with d3rlpy's settings but for the sizes; BEAR past its warm-up."""
    encoder = VectorEncoderFactory(widths)
    critic = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    configurations = {
        "bc": lambda: d3rlpy.algos.BCConfig(batch_size=batch_size, policy_type="stochastic", encoder_factory=encoder),
        "sac": lambda: d3rlpy.algos.SACConfig(batch_size=batch_size, **critic),
        "td3": lambda: d3rlpy.algos.TD3Config(batch_size=batch_size, **critic),
        "cql": lambda: d3rlpy.algos.CQLConfig(batch_size=batch_size, **critic),
        "bear": lambda: d3rlpy.algos.BEARConfig(
            batch_size=batch_size, warmup_steps=0, imitator_encoder_factory=encoder, **critic
        ),
        "bcq": lambda: d3rlpy.algos.BCQConfig(batch_size=batch_size, imitator_encoder_factory=encoder, **critic),
    }
    return configurations[name]().create(device=False)


def main() -> None:
    """Serves timings until stdin ends."""
    name, batch_size, observation, action, widths = sys.argv[1:]
    out, sys.stdout = sys.stdout, sys.stderr  # d3rlpy logs to stdout
    data = random_data(int(observation), int(action))
    algorithm = build(name, int(batch_size), [int(width) for width in widths.split(",")])
    algorithm.build_with_dataset(data)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            algorithm.update(data.sample_transition_batch(int(batch_size)))
        print(time.perf_counter() - start, file=out, flush=True)


if __name__ == "__main__":
    main()
