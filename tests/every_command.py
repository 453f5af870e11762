"""Every command once, in the smallest size: every_command.py DATASET DIRECTORY, in whatever surroundings it is started.

Not a test itself: test_surroundings.py runs it. Whatever is written goes below DIRECTORY; prints each command's status.
"""

import pathlib
import sys

import tiny


def commands(dataset: str, root: pathlib.Path) -> list[tuple[str, ...]]:
    """Name and arguments, in an order in which each finds what it needs."""
    runs, tiny_bc = f"--root_dir={root / 'runs'}", ("behavior/Actor.hidden_sizes = (8,)", "Loop.compiled = False")
    run = root / "runs" / pathlib.Path(dataset).stem / "bc-smoke" / "0"
    sac = (
        "Actor.hidden_sizes = (8,)",
        "Critic.hidden_sizes = (8,)",
        "Training.batch_size = 8",
        "Loop.compiled = False",
    )
    small = ("Collection.shard_episodes = 2",)
    made = ("--mixture=pure", "--n_samples=20", "--workers=1", f"--output={root / 'made.hdf5'}")
    fitted = ("FittedQ.hidden_sizes = (8,)", "clone/Actor.hidden_sizes = (8,)", "Loop.compiled = False")
    estimates = [f"--estimate_bindings={binding}" for binding in fitted]
    compared = f"--output={root / 'comparison'}"
    return [
        ("inspect_dataset", dataset, f"--output={root / 'returns.png'}"),
        ("train", "--gin_file=bc/base.gin", f"--dataset={dataset}", "--smoke", runs, *bound(tiny_bc)),
        ("evaluate", f"--run_dir={run}", "--episodes=2"),
        ("export", f"--run_dir={run}", f"--output={root / 'policy'}"),
        ("plot", str(run)),
        ("estimate", f"--run_dir={run}", *bound(fitted)),
        ("select", f"--runs={run}", f"--output={root / 'selection'}", *estimates),
        ("report", str(root / "selection")),
        ("convert_to_minari", dataset, "robot/collected-v0"),
        ("inspect_dataset", "minari:robot/collected-v0"),
        ("train_online", "--env=Hopper-v4", "--smoke", "--total_steps=40", runs, *bound(sac)),
        ("collect_data", "--policy=random", "--env=Hopper-v4", *made, *bound(small)),
        ("compare", "--agents=bc", f"--datasets={dataset}", "--seeds=0", "--smoke", runs, *bound(tiny_bc), compared),
    ]


def bound(lines: tuple[str, ...]) -> list[str]:
    return [f"--gin_bindings={line}" for line in lines]


if __name__ == "__main__":
    for name, *arguments in commands(sys.argv[1], pathlib.Path(sys.argv[2])):
        outcome = tiny.run_here(name, *arguments)
        print(f"\n{name}: {outcome.status}", flush=True)
        if outcome.status:
            print(outcome.stdout[-2000:], outcome.stderr[-2000:], flush=True)
