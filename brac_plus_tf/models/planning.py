"""MBOP-Trajopt (Argenson and Dulac-Arnold 2021, Algorithm 2): plans as weighted means of what the data's policy does.

K is the number of members, E that of episodes planned for side by side, N that of trajectories, a multiple of K.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from brac_plus_tf.core.types import check_shapes


class Outcome(NamedTuple):
    """What follows of actions: next_observation [K, R, O], reward [K, R], and ends [K, R], 1 where an episode does."""

    next_observation: tf.Tensor
    reward: tf.Tensor
    ends: tf.Tensor


@dataclasses.dataclass(frozen=True)
class PlanningModel:
    """What a planner asks, each of its R rows of member k by member k; observation [K, R, O], action [K, R, A].

    behavior: (observation, the action before) -> action. dynamics: (observation, action) -> `Outcome`; its reward is
    the mean over all members. value: (observation, the action before) -> what is earned after the plan's end [K, R],
    the mean over all members. objective: observation [.., O] -> [..], what else a plan is to gather along its way.
    """

    behavior: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    dynamics: Callable[[tf.Tensor, tf.Tensor], Outcome]
    value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    objective: Callable[[tf.Tensor], tf.Tensor] | None = None


class Plans(NamedTuple):
    """plan [E, H, A]; effective_samples [E]: 1 / sum_n weight_n^2, between 1 (one trajectory) and N (their mean)."""

    plan: tf.Tensor
    effective_samples: tf.Tensor


def optimize_trajectory(
    model: PlanningModel,
    observation: tf.Tensor,
    plan: tf.Tensor,
    noise: tf.Tensor,
    weights: tuple[float, float],
    mixing: float,
) -> Plans:
    """One round: N trajectories of H noisy steps of the behaviour, averaged with weights exp(kappa R + kappa' R').

        a_t = clip(f_b(s_t, A_{t-1}) + noise_t),  A_t = (1 - beta) a_t + beta T_min(t, H-1),  A_0 = T_0
        T'_t = sum_n w_n A_{n,t+1},  w = softmax_n(kappa R_n + kappa' R'_n)

    Args:
      observation: [E, O]. plan: T, the plan before [E, H, A], whose first action has just been executed.
      noise: [K, E, N/K, H, A], scaled. weights: kappa, of what is earned, and kappa', of `PlanningModel.objective`.
      mixing: beta.
    """
    check_shapes((observation, "EO"), (plan, "EHA"), (noise, "KENHA"))
    actions, total, gathered = _roll_out(model, observation, plan, noise, mixing)
    count = noise.shape[2]
    # softmax takes the largest off first: exp(kappa R) alone would overflow from 88 on
    weight = tf.nn.softmax(_by_episode(weights[0] * total + weights[1] * gathered, count), axis=-1)
    mean = tf.einsum("en,enha->eha", weight, _by_episode(actions, count))
    # the mean of actions within bounds leaves them by what weights round to more than one
    return Plans(tf.clip_by_value(mean, -1.0, 1.0), 1.0 / tf.reduce_sum(tf.square(weight), axis=-1))


def _roll_out(
    model: PlanningModel, observation: tf.Tensor, plan: tf.Tensor, noise: tf.Tensor, mixing: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A [K, E N/K, H, A], R [K, E N/K] and R' [K, E N/K] of `optimize_trajectory`."""
    members, _, count, horizon, _ = noise.shape
    noise = tf.reshape(noise, [members, -1, horizon, noise.shape[-1]])
    state, action = _rows(observation, members, count), _rows(plan[:, 0], members, count)
    alive = tf.ones(tf.shape(state)[:2])
    total, gathered, taken = tf.zeros_like(alive), tf.zeros_like(alive), []
    for step in range(1, horizon + 1):
        proposed = tf.clip_by_value(model.behavior(state, action) + noise[:, :, step - 1], -1.0, 1.0)
        action = (1.0 - mixing) * proposed + mixing * _rows(plan[:, min(step, horizon - 1)], members, count)
        state, reward, ends = model.dynamics(state, action)
        total += alive * reward
        alive *= 1.0 - ends
        if model.objective is not None:
            gathered += model.objective(state)
        taken.append(action)
    return tf.stack(taken, axis=2), total + alive * model.value(state, action), gathered


def _rows(tensor: tf.Tensor, members: int, count: int) -> tf.Tensor:
    """[E, D] -> [K, E N/K, D]: for each member the episodes one after the other."""
    episodes, size = tf.shape(tensor)[0], tensor.shape[-1]
    wide = tf.broadcast_to(tensor[None, :, None], tf.stack([members, episodes, count, size]))
    return tf.reshape(wide, tf.stack([members, episodes * count, size]))


def _by_episode(tensor: tf.Tensor, count: int) -> tf.Tensor:
    """[K, E N/K, ..] -> [E, N, ..]."""
    members, rest = tensor.shape[0], tensor.shape[2:]
    split = tf.reshape(tensor, [members, -1, count, *rest])
    return tf.reshape(tf.transpose(split, [1, 2, 0, *range(3, 3 + len(rest))]), [-1, members * count, *rest])
