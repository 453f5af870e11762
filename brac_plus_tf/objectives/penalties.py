"""Penalties on the critic, per state -> [B] (Eq. 10), and the masks that say where they apply."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import check_shapes

Mask = Callable[[tf.Tensor], tf.Tensor]
GradientSize = Callable[[tf.Tensor], tf.Tensor]


@gin.register
def heaviside(excess: tf.Tensor) -> tf.Tensor:
    """f(x) = 1 where x > 0, else 0: the paper's choice. excess: D(s) - eps_GP [B]."""
    return tf.cast(excess > 0.0, excess.dtype)


@gin.register
def sigmoid(excess: tf.Tensor) -> tf.Tensor:
    """f(x) = 1 / (1 + exp(-x)), the paper's "soft version"."""
    return tf.sigmoid(excess)


@gin.register
def normalized_softplus(excess: tf.Tensor) -> tf.Tensor:
    """f(x) = softplus(x) divided by its maximum over the batch (the authors' later code)."""
    weight = tf.nn.softplus(excess)
    # with every state far inside, softplus underflows to 0 in all of them, and 0 / 0 would be NaN
    return weight / tf.maximum(tf.reduce_max(weight), 1e-12)


@gin.register
def squared_norm(gradient: tf.Tensor) -> tf.Tensor:
    """||g||_2^2 over the last axis: no square root, so its own gradient is finite at 0."""
    return tf.reduce_sum(tf.square(gradient), axis=-1)


@gin.register
def smooth_norm(gradient: tf.Tensor) -> tf.Tensor:
    """sqrt(||g||_2^2 + 1e-12): the plain norm of the authors' later code, without its NaN gradient at 0."""
    return tf.sqrt(squared_norm(gradient) + 1e-12)


def action_gradient_penalty(
    value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    observation: tf.Tensor,
    action: tf.Tensor,
    mask_weight: tf.Tensor,
    size: GradientSize = squared_norm,
) -> tf.Tensor:
    """||grad_a Q(s, a)||^2 * f(D(s) - eps_GP), per state (second term of Eq. 10, without lambda).

    Differentiable with respect to the critic's weights only: the action and the mask carry no gradient.

    Args:
      value: (observation [B, O], action [B, A]) -> Q [B]; here min_j Q_j.
      observation: [B, O]. action: [B, A], drawn from the policy. mask_weight: f(D(s) - eps_GP) [B].
      size: gradient [B, A] -> [B].
    Returns:
      [B], in (reward units per action unit)^2 for the squared size.
    """
    check_shapes((observation, "BO"), (action, "BA"), (mask_weight, "B"))
    # Without the stop the penalty would have a second way down: moving the policy to where the critic is flat.
    action = tf.stop_gradient(action)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(action)
        total = tf.reduce_sum(value(observation, action))  # a row's value has its own action alone in it
    # the critic's step records this gradient on its own tape, and differentiates it once more
    return size(tape.gradient(total, action)) * tf.stop_gradient(mask_weight)


def lipschitz_penalty(
    value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    observation: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    share: tf.Tensor,
) -> tf.Tensor:
    """max(||grad_a c(s, a)||_2 - 1, 0)^2, per state [B], at a = first + share (second - first): one-sided.

    Differentiable with respect to the weights of c only.

    Args:
      value: (observation [B, O], action [B, A]) -> c [B]. first, second: actions [B, A]. share: [B] in [0, 1].
    Reference: Gulrajani et al. (2017), with respect to the action alone as in Google's BRAC.
    """
    check_shapes((observation, "BO"), (first, "BA"), (second, "BA"), (share, "B"))
    action = first + share[:, None] * (second - first)
    ones = tf.ones_like(share)
    norm = action_gradient_penalty(value, observation, action, ones, smooth_norm)
    return tf.square(tf.maximum(norm - 1.0, 0.0))


def of_weighted_rows(function: Callable[..., tf.Tensor], weight: tf.Tensor, *rows: tf.Tensor) -> tf.Tensor:
    """function(weight, *rows) [B], where a row of weight 0 is worth 0: such rows cost nothing if most of them are.

    Where at most a quarter of the weights is not 0, `function` sees a quarter of the rows, else all. Differentiable
    with respect to the variables that it reads, and to nothing else.

    Args:
      function: of each row by itself. weight: [B], none below 0. rows: [B, ..] each.
    """
    given = (weight, *rows)
    quarter = weight.shape[0] // 4
    heaviest = tf.math.top_k(weight, quarter).indices
    enough = tf.math.count_nonzero(weight) <= quarter

    def some() -> tf.Tensor:
        values = function(*(tf.gather(tensor, heaviest) for tensor in given))
        return tf.scatter_nd(heaviest[:, None], values, tf.shape(weight))

    def every() -> tf.Tensor:
        return function(*given)

    def gradient_of(
        value: Callable[[], tf.Tensor], upstream: tf.Tensor, variables: Sequence[tf.Variable]
    ) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            values = value()
        return tape.gradient(values, variables, upstream, tf.UnconnectedGradients.ZERO)

    # XLA does not compile the gradient that TensorFlow makes of a tf.cond; here the gradient is a tf.cond itself
    @tf.custom_gradient
    def chosen() -> tuple[tf.Tensor, Callable[..., tuple[list[None], list[tf.Tensor]]]]:
        def gradient(upstream: tf.Tensor, variables: Sequence[tf.Variable]) -> tuple[list[None], list[tf.Tensor]]:
            branches = (functools.partial(gradient_of, value, upstream, variables) for value in (some, every))
            return [], tf.cond(enough, *branches)

        return tf.cond(enough, some, every), gradient

    return chosen()


@gin.register
@dataclasses.dataclass(frozen=True)
class GradientPenalty(HyperParameters):
    """lambda ||grad_a min_j Q_j(s,a'')||^2 f(D(s) - eps_GP) (Eq. 10).

    weight: lambda. mask: f. size: how the gradient is measured.
    weight_rate, target: with a positive rate lambda <- max(weight, lambda + rate (mean penalty - target)) after each
    step (the authors' later code learns lambda); at 0 lambda stays what it is.
    """

    weight: float = 0.1
    mask: Mask = heaviside
    size: GradientSize = squared_norm
    weight_rate: float = 0.0
    target: float = 0.0

    def __call__(
        self,
        value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        observation: tf.Tensor,
        action: tf.Tensor,
        excess: tf.Tensor,
    ) -> tf.Tensor:
        """Per-state penalty [B] without lambda; excess: D(s) - eps_GP [B]. See `action_gradient_penalty`."""

        def penalty(weight: tf.Tensor, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
            return action_gradient_penalty(value, observation, action, weight, self.size)

        return of_weighted_rows(penalty, self.mask(excess), observation, action)

    def next_weight(self, weight: tf.Tensor, mean_penalty: tf.Tensor) -> tf.Tensor:
        """lambda after a step."""
        # dual ascent on (mean penalty <= target), from below by the fixed weight instead of 0
        return tf.maximum(self.weight, weight + self.weight_rate * (mean_penalty - self.target))


@gin.register
@dataclasses.dataclass(frozen=True)
class NoPenalty(GradientPenalty):
    """The ablation of Fig. 2c: the critic is fitted by its squared error alone."""

    weight: float = 0.0

    def __call__(
        self,
        value: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        observation: tf.Tensor,
        action: tf.Tensor,
        excess: tf.Tensor,
    ) -> tf.Tensor:
        """Zeros [B]."""
        return tf.zeros_like(excess)
