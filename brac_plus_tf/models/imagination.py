"""Rollouts in a model of the environment: steps of a policy that no environment has answered."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from brac_plus_tf.core.randomness import fold
from brac_plus_tf.core.types import Transition


class ImaginedStep(NamedTuple):
    """What a model answers to B actions: next_observation [B, O], reward [B], ends [B] bool, and extra metrics [B]."""

    next_observation: tf.Tensor
    reward: tf.Tensor
    ends: tf.Tensor
    penalty: tf.Tensor


Act = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], ImaginedStep]


class Imagined(NamedTuple):
    """transition: leaves [length, B, ..], those of all first steps first. valid [length, B]: whether it was taken.

    penalty [length, B].
    """

    transition: Transition
    valid: tf.Tensor
    penalty: tf.Tensor


def imagine(act: Act, step: Step, observation: tf.Tensor, length: int, seed: tf.Tensor) -> Imagined:
    """`length` steps from each observation [B, O], of fixed shapes: rows that have ended go on but are not valid.

    act: (observation [B, O], seed) -> action [B, A]. step: (observation, action, seed) -> what the model answers. An
    answer that is not finite ends its row and is not valid itself: nothing can be learned from it.
    """
    alive, taken = tf.ones(tf.shape(observation)[:1], tf.bool), []
    for index in range(length):
        own = fold(seed, index)
        action = act(observation, fold(own, 0))
        answer = step(observation, action, fold(own, 1))
        finite = tf.reduce_all(tf.math.is_finite(answer.next_observation), axis=-1) & tf.math.is_finite(answer.reward)
        valid = alive & finite
        transition = Transition(
            observation=observation,
            action=action,
            reward=answer.reward,
            discount=1.0 - tf.cast(answer.ends, tf.float32),
            next_observation=answer.next_observation,
            next_action=action,  # as where an episode was cut; what the policy does next is drawn when it is needed
        )
        taken.append(Imagined(transition, valid, answer.penalty))
        alive = valid & ~answer.ends
        # a row that has ended stays where it is: its numbers remain finite
        observation = tf.where(alive[:, None], answer.next_observation, observation)
    return tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *taken)
