"""An outside implementation on the same file: trains a baseline of d3rlpy 2.8.1 by this package's short protocol.

usage: python scripts/d3rlpy_crosscheck.py AGENT DATASET.hdf5 ENVIRONMENT SEED OUTPUT.json [STEPS]

AGENT: bc, td3_bc, iql, rebrac, cql or bear. It runs in an interpreter of its own, where d3rlpy 2.8.1, h5py, gymnasium
and mujoco are installed; this package is not needed there. OUTPUT holds the score of the last policy in 100 episodes,
and those of 10 after each 6,000 steps on the way (of ReBRAC, each 2,000), as this package has them.

Where the two differ: d3rlpy's CQL has no steps of cloning before it (here 5,000), and its batches are drawn anew. Its
cloning is of the squared distance, of a stochastic policy, too (which is driven to its smallest deviation): what it
is compared with is TD3+BC here without its Q (`studies/crosscheck.gin`), not the likelihood of `bc/base.gin`.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

EPISODES, ON_THE_WAY = 100, 10
EPOCH_STEPS = 2000
STEPS = {"bc": 60_000, "td3_bc": 100_000, "iql": 100_000, "rebrac": 50_000, "cql": 60_000, "bear": 100_000}
EVALUATION_EPOCHS = dict.fromkeys(STEPS, 3) | {"rebrac": 1}  # from one evaluation on the way to the next
PENALTIES = {  # of ReBRAC, in the policy's loss and in the targets, which its authors chose for each dataset
    "halfcheetah-medium-replay.hdf5": (0.01, 0.001),
    "hopper-medium-replay.hdf5": (0.05, 0.5),
    "hopper-medium.hdf5": (0.01, 0.01),
}
REFERENCE = {
    "Hopper-v4": (-20.272305, 3234.3),
    "HalfCheetah-v4": (-280.178953, 12135.0),
}  # returns that score 0 and 100


def read(path: Path) -> dict[str, np.ndarray]:
    """MDPDataset's arguments: [M, O], [M, A], [M, 1] float32, and the two kinds of ends [M]; the last row is one."""
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    ends = {name: arrays[name].astype(np.float32) for name in ("terminals", "timeouts")}
    ends["timeouts"][-1] = 1.0 - ends["terminals"][-1]  # rows that no flag ends are cut off, not ended
    return {
        "observations": arrays["observations"].astype(np.float32),
        "actions": arrays["actions"].astype(np.float32),
        "rewards": arrays["rewards"].astype(np.float32)[:, None],
        **ends,
    }


def score(returns: np.ndarray, environment: str) -> np.ndarray:
    """Normalised: 0 for a random policy, 100 for an expert."""
    low, high = REFERENCE[environment]
    return 100.0 * (returns - low) / (high - low)


def build(agent: str, dataset: str, steps: int) -> Any:
    """The algorithm, by this package's settings."""
    import d3rlpy
    from d3rlpy.models import VectorEncoderFactory
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.optimizers.lr_schedulers import CosineAnnealingLRFactory

    wide = VectorEncoderFactory([256, 256])
    networks = {"actor_encoder_factory": wide, "critic_encoder_factory": wide}
    shared = {"batch_size": 100, "observation_scaler": d3rlpy.preprocessing.StandardObservationScaler()}
    spans = d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
    deep, normalized = (VectorEncoderFactory([256, 256, 256], use_layer_norm=norm) for norm in (False, True))
    falling = AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=steps))
    algorithms = d3rlpy.algos
    made = {
        "bc": lambda: algorithms.BCConfig(
            policy_type="deterministic", learning_rate=3e-4, encoder_factory=wide, **shared
        ),
        "td3_bc": lambda: algorithms.TD3PlusBCConfig(**networks, **shared),
        "iql": lambda: algorithms.IQLConfig(
            reward_scaler=spans, actor_optim_factory=falling, value_encoder_factory=wide, **networks, **shared
        ),
        "rebrac": lambda: algorithms.ReBRACConfig(
            actor_beta=PENALTIES[dataset][0],
            critic_beta=PENALTIES[dataset][1],
            actor_encoder_factory=deep,
            critic_encoder_factory=normalized,
            **shared | {"batch_size": 256},
        ),
        "cql": lambda: algorithms.CQLConfig(
            actor_learning_rate=3e-4, alpha_learning_rate=0.0, n_action_samples=5, **networks, **shared
        ),
        "bear": lambda: algorithms.BEARConfig(
            actor_learning_rate=3e-4, warmup_steps=5000, imitator_encoder_factory=wide, **networks, **shared
        ),
    }
    return made[agent]().create(device=False)


def play(act: Any, environment: str, seed: int, episodes: int) -> np.ndarray:
    """Returns of that many episodes."""
    import gymnasium

    simulator, returns = gymnasium.make(environment), np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = simulator.reset(seed=1_000_000 * (seed + 1) + episode)
        over = False
        while not over:
            observation, reward, terminal, cut, _ = simulator.step(act(observation[None].astype(np.float32))[0])
            returns[episode] += float(reward)
            over = terminal or cut
    return returns


def main() -> None:
    """Trains, plays and writes."""
    agent, path, environment, seed, output, *more = sys.argv[1:]
    import d3rlpy

    steps = int(more[0]) if more else STEPS[agent]
    d3rlpy.seed(int(seed))
    data = d3rlpy.dataset.MDPDataset(**read(Path(path)))
    algorithm, start = build(agent, Path(path).name, steps), time.perf_counter()
    curve = []

    def look(algorithm: Any, epoch: int, step: int) -> None:
        """The score on the way."""
        if epoch % EVALUATION_EPOCHS[agent] == 0:
            returns = play(algorithm.predict, environment, 1000 * (int(seed) + 1) + epoch, ON_THE_WAY)
            curve.append([step, float(score(returns, environment).mean())])

    quiet = {"logger_adapter": d3rlpy.logging.NoopAdapterFactory(), "show_progress": False}
    algorithm.fit(data, n_steps=steps, n_steps_per_epoch=EPOCH_STEPS, epoch_callback=look, **quiet)
    seconds = time.perf_counter() - start
    # BEAR's predict takes the best of 100 draws by Q, as max_q does
    scores = score(play(algorithm.predict, environment, int(seed), EPISODES), environment)
    record = {
        "agent": agent,
        "dataset": Path(path).name,
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "environment": environment,
        "seed": int(seed),
        "steps": steps,
        "steps_per_second": round(steps / seconds, 1),
        "d3rlpy": d3rlpy.__version__,
        "episodes": EPISODES,
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "curve": curve,
    }
    Path(output).write_text(json.dumps(record, indent=1) + "\n")
    print(f"{agent}: {record['score_mean']:.1f} +- {record['score_std']:.1f}\nresults: {output}")


if __name__ == "__main__":
    main()
