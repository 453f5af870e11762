"""Makes the quickstart's dataset: everything that soft actor-critic saw while it learnt Hopper-v4 from scratch.

usage: python scripts/make_quickstart_dataset.py [--seed=0] [--steps=50000] [--output=FILE]

Like D4RL's medium-replay: episodes from clumsy to fair, in the order they were played. Rewards are the environment's
own. The same seed on the same machine and packages gives the same file, byte for byte.

Reference: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

from brac_plus_tf.agents.actor_critic import draw_policy, fit_critic
from brac_plus_tf.checkpoints import write_atomically
from brac_plus_tf.command_line import run_command
from brac_plus_tf.environments import make_environment
from brac_plus_tf.networks import Actor, Critic
from brac_plus_tf.randomness import Purpose, base_seed, fold, initializer_seed
from brac_plus_tf.tasks import Task, find_task
from brac_plus_tf.types import Dimensions, Transition
from brac_plus_tf.updates import build_adam, gradient_step, soft_update

_TASK = "Hopper-v4"
_OUTPUT = Path(__file__).resolve().parents[1] / "quickstart" / "hopper-quickstart.hdf5"
_RANDOM_STEPS = 1000  # environment steps under uniform actions, before the first update
_BATCH_SIZE = 256
_LEARNING_RATE = 1e-3

Rows = dict[str, np.ndarray]


class SoftActorCritic:
    """SAC with two critics and a temperature that holds the policy's entropy at -A nats."""

    def __init__(self, dimensions: Dimensions, seed: int) -> None:
        shape = Critic(hidden_sizes=(256, 256), learning_rate=_LEARNING_RATE, tau=5e-3)
        self._gamma, self._tau = shape.gamma, shape.tau
        self._seed, self._target_entropy = base_seed(seed), -float(dimensions.action)
        self._actor = Actor(hidden_sizes=(256, 256)).build(dimensions, seed)
        self._critic = shape.build(dimensions, seed)
        self._target_critic = shape.build(dimensions, seed)  # same seed and name: an exact copy
        self._log_temperature = tf.Variable(0.0, trainable=False)
        self._actor_optimizer = build_adam(_LEARNING_RATE, self._actor.trainable_variables)
        self._critic_optimizer = build_adam(_LEARNING_RATE, self._critic.trainable_variables)

    @tf.function(jit_compile=True)
    def act(self, observation: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """One draw from the policy: observation [O] -> action [A] in [-1, 1]."""
        seed = fold(self._seed, Purpose.EVALUATION, step)
        return draw_policy(self._actor, observation[None], 1, seed).action[0]

    @tf.function(jit_compile=True)
    def update(self, batch: Transition, step: tf.Tensor) -> None:
        """One step of critics, policy, temperature and target critics on one batch."""
        seed = fold(self._seed, Purpose.UPDATE, step)
        temperature = tf.exp(self._log_temperature)
        ahead = draw_policy(self._actor, batch.next_observation, 1, fold(seed, Purpose.TARGET_ACTION))
        next_value = self._target_critic.minimum(batch.next_observation, ahead.action) - temperature * ahead.log_prob
        fit_critic(self._critic, self._critic_optimizer, batch, next_value, self._gamma)

        def policy_loss() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            draw = draw_policy(self._actor, batch.observation, 1, fold(seed, Purpose.POLICY_ACTION))
            value = self._critic.minimum(batch.observation, draw.action)
            return tf.reduce_mean(temperature * draw.log_prob - value), {"entropy": -tf.reduce_mean(draw.log_prob)}

        _, metrics = gradient_step(policy_loss, self._actor.trainable_variables, self._actor_optimizer)
        self._log_temperature.assign_add(_LEARNING_RATE * (self._target_entropy - metrics["entropy"]))
        soft_update(self._critic.variables, self._target_critic.variables, self._tau)


def empty_rows(dimensions: Dimensions, steps: int) -> Rows:
    """D4RL's keys with room for `steps` rows."""
    return {
        "observations": np.zeros((steps, dimensions.observation), np.float32),
        "actions": np.zeros((steps, dimensions.action), np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.zeros(steps, bool),
        "next_observations": np.zeros((steps, dimensions.observation), np.float32),
    }


def batch_of(rows: Rows, filled: int, seed: int) -> Transition:
    """A batch drawn uniformly from the first `filled` rows; `seed` and `filled` alone decide which."""
    picked = np.random.default_rng((seed, filled)).integers(0, filled, _BATCH_SIZE)
    return Transition(
        *(tf.constant(rows[key][picked]) for key in ("observations", "actions", "rewards")),
        discount=tf.constant(1.0 - rows["terminals"][picked].astype(np.float32)),
        next_observation=tf.constant(rows["next_observations"][picked]),
        next_action=tf.constant(rows["actions"][picked]),  # SAC asks for none
    )


def play_and_learn(task: Task, steps: int, seed: int) -> Rows:
    """Trains SAC for `steps` environment steps, one update each, and returns all of them in order."""
    environment, agent = make_environment(task), SoftActorCritic(task.dimensions, seed)
    rows, random = empty_rows(task.dimensions, steps), np.random.default_rng((seed, 0))
    observation, _ = environment.reset(seed=initializer_seed(seed, "environment"))
    total, last = 0.0, 0.0
    with tqdm(total=steps, desc="sac", unit="step", file=sys.stdout, mininterval=1.0) as bar:
        for step in range(steps):
            if step < _RANDOM_STEPS:
                action = random.uniform(-1.0, 1.0, task.dimensions.action).astype(np.float32)
            else:
                action = agent.act(tf.constant(observation, tf.float32), tf.constant(step)).numpy()
            following, reward, terminated, truncated, _ = environment.step(action)
            row = (observation, action, reward, terminated, truncated, following)
            for key, value in zip(rows, row, strict=True):
                rows[key][step] = value
            total, observation = total + reward, following
            if terminated or truncated:
                last, total = total, 0.0
                observation, _ = environment.reset()
            if step >= _RANDOM_STEPS:
                agent.update(batch_of(rows, step + 1, seed), tf.constant(step))
            bar.update()
            bar.set_postfix({"return": f"{last:.0f}"}, refresh=False)
    environment.close()
    return rows


def episode_returns(rows: Rows) -> np.ndarray:
    """Undiscounted returns of the episodes that were played to their end."""
    ends = np.flatnonzero(rows["terminals"] | rows["timeouts"])
    return np.diff(np.cumsum(rows["rewards"], dtype=np.float64)[ends], prepend=0.0)


def as_hdf5(rows: Rows, attributes: dict[str, object]) -> bytes:
    """The file's content in D4RL's layout, without anything that depends on the time of writing."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        for key, values in rows.items():
            column = (len(values), 1)[: values.ndim]  # one chunk per column compresses best
            settings = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "track_times": False}
            file.create_dataset(key, data=values, chunks=column, **settings)
        for name, value in attributes.items():
            file.attrs[name] = value
    return buffer.getvalue()


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    task, output = find_task(_TASK), Path(options.output)
    rows = play_and_learn(task, options.steps, options.seed)
    returns = episode_returns(rows)
    mean = float(returns.mean())
    attributes = {
        "env_id": task.name,
        "behavior": "soft actor-critic, all steps from the first on",
        "mean_episode_return": mean,
        "normalized_score": float(task.normalized_score(mean)),
        "seed": options.seed,
    }
    content = as_hdf5(rows, attributes)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, content)
    print(f"{options.steps:,} rows, {len(returns)} episodes, return mean {mean:.1f}, highest {returns.max():.1f}")
    print(f"{output}: {len(content):,} bytes")


if __name__ == "__main__":
    flags.DEFINE_integer("seed", 0, "Seed of weights, noise, batches and episodes.", lower_bound=0)
    flags.DEFINE_integer("steps", 50_000, "Environment steps, one row each.", lower_bound=_RANDOM_STEPS + 1)
    flags.DEFINE_string("output", str(_OUTPUT), "File to write.")
    run_command(main)
