"""How fast collect_data records, beside the simulator alone taking the very same steps.

usage: python scripts/collection_throughput.py --policy=RUN_OR_EXPORT --env=Hopper-v4 [--mixture=eps1] [--workers=2]

In each of --workers processes at once, a shard is recorded and its episodes are then stepped again from the same seeds
by the same actions, with nothing else done; the shares are of the simulator's own rate.
"""

import concurrent.futures
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence

from absl import flags

from brac_plus_tf.collect_data import mixture_file, policy_directory
from brac_plus_tf.collection.recording import Collection, Plan, Player, use_one_thread
from brac_plus_tf.command_line import run_command
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs import configuration


def measure(plan: Plan, shards: int) -> list[tuple[float, float]]:
    """Steps per second (recorded, simulator alone) of each shard, in one process."""
    use_one_thread()  # as the workers of a collection do
    player, environment = Player(plan), make_environment(plan.task, plan.backend)
    player.play(0, shards)  # what is prepared once: compiled functions, memory
    rates = []
    for number in range(shards):
        part = number % len(plan.collection.parts)
        start = time.perf_counter()
        shard = player.play(part, number)
        recorded, start = time.perf_counter() - start, time.perf_counter()
        row = 0
        for seed, length in zip(shard.seeds.tolist(), shard.lengths.tolist(), strict=True):
            environment.reset(seed=seed)
            for action in shard.rows.actions[row : row + length]:
                environment.step(action)
            row += length
        rates.append((row / recorded, row / (time.perf_counter() - start)))
    return rates


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    values = flags.FLAGS
    collection = configuration.build(Collection, [mixture_file(values.mixture)], values.gin_bindings)
    plan = Plan(find_task(values.env), "auto", policy_directory(values.policy), collection, 1, 0)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(values.workers, context) as pool:
        futures = [pool.submit(measure, plan, values.shards) for _ in range(values.workers)]
        rates = [rate for future in futures for rate in future.result()]
    shares = sorted(recorded / alone for recorded, alone in rates)
    recorded, alone = (statistics.median(column) for column in zip(*rates, strict=True))
    result = {
        "workers": values.workers,
        "recorded_steps_per_second": recorded,
        "simulator_steps_per_second": alone,
        "share": statistics.median(shares),
        "share_range": [shares[0], shares[-1]],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    flags.DEFINE_string("policy", None, "Exported policy, run directory, or 'random'.", required=True)
    flags.DEFINE_string("env", "Hopper-v4", "Environment.")
    flags.DEFINE_string("mixture", "pure", "As collect_data has it.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding of the mixture; may repeat.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes at once.", lower_bound=1)
    flags.DEFINE_integer("shards", 6, "Shards that each process records.", lower_bound=1)
    run_command(main)
