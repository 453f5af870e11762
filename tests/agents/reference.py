"""NumPy's reading of the algorithms, in float64, from their papers' formulas: what whole updates are measured against.

Nothing here is made of the package's own formulas. Noise is the package's, by the purpose that it ought to be for.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.types import Dimensions, Transition

DIMENSIONS = Dimensions(observation=3, action=2)
ROWS = 6
Weights = list[np.ndarray]


def batch(seed: int = 0, leading: tuple[int, ...] = (ROWS,)) -> Transition:
    """Transitions that nothing can be confused in: states, next states, actions and next actions all differ."""
    generator = np.random.default_rng(seed)
    terminal = np.arange(np.prod(leading)).reshape(leading) % 3 == 1
    columns = (
        generator.normal(size=(*leading, 3)),
        generator.uniform(-0.9, 0.9, size=(*leading, 2)),
        generator.normal(size=leading) + 1.0,
        1.0 - terminal,
        generator.normal(size=(*leading, 3)) + 0.7,
        generator.uniform(-0.9, 0.9, size=(*leading, 2)),
    )
    return Transition(*(tf.constant(column, tf.float32) for column in columns))


def arrays(transition: Transition) -> Transition:
    """The same in float64."""
    return Transition(*(np.asarray(leaf, np.float64) for leaf in transition))


def randomize(variables: Sequence, seed: int, scale: float = 0.6) -> None:
    """Weights and biases that nothing cancels in; every member its own."""
    generator = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(generator.normal(scale=scale, size=variable.shape))


def weights_of(network) -> Weights:
    """Kernels [E, in, out] and biases [E, out] in turn, float64."""
    return [np.asarray(variable, np.float64) for variable in network.trainable_variables]


def copies(weights: Weights) -> Weights:
    """Arrays of one's own."""
    return [array.copy() for array in weights]


def noise(shape: Sequence[int], seed: tf.Tensor, *purposes: int) -> np.ndarray:
    """N(0, 1) for a purpose, or a purpose within another."""
    return _noise(tuple(shape), tuple(seed.numpy().tolist()), purposes)


@functools.cache
def _noise(shape: tuple[int, ...], seed: tuple[int, int], purposes: tuple[int, ...]) -> np.ndarray:
    return standard_normal(list(shape), fold(tf.constant(seed, tf.int32), *purposes)).numpy().astype(np.float64)


# Networks -------------------------------------------------------------------------------------------------------------


def mlp(weights: Weights, inputs: np.ndarray, member: int = 0) -> np.ndarray:
    """[.., in] -> [.., out], ReLU between the layers."""
    kernels, biases = weights[::2], weights[1::2]
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        inputs = inputs @ kernel[member] + bias[member]
        if layer + 1 < len(kernels):
            inputs = np.maximum(inputs, 0.0)
    return inputs


def q_values(weights: Weights, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Q_j(s, a): [K, ..]."""
    inputs = np.concatenate([observation, action], axis=-1)
    return np.stack([mlp(weights, inputs, member)[..., 0] for member in range(len(weights[0]))])


def assert_either_is_smaller(values: np.ndarray) -> None:
    """Of critics [K, B]: each is the smallest somewhere, else taking one of them for the minimum would not show."""
    assert set(values.argmin(axis=0)) == set(range(len(values)))


def action_gradient(weights: Weights, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """d min_j Q_j / d a, [B, A], by the chain rule through ReLU layers."""
    inputs = np.concatenate([observation, action], axis=-1)
    smallest, rows = q_values(weights, observation, action).argmin(axis=0), []
    for row, member in zip(inputs, smallest, strict=True):
        jacobian, hidden = np.eye(len(row)), row
        kernels, biases = weights[::2], weights[1::2]
        for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            hidden, jacobian = hidden @ kernel[member] + bias[member], jacobian @ kernel[member]
            if layer + 1 < len(kernels):
                jacobian, hidden = jacobian * (hidden > 0.0), np.maximum(hidden, 0.0)
        rows.append(jacobian[observation.shape[-1] :, 0])
    return np.stack(rows)


# Gaussians ------------------------------------------------------------------------------------------------------------


def gaussian(parameters: np.ndarray, log_std_range: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of outputs [.., 2 A], the logarithm squeezed into its range by tanh."""
    mean, raw = np.split(parameters, 2, axis=-1)
    low, high = log_std_range
    return mean, np.exp(low + (high - low) * (np.tanh(raw) + 1.0) / 2.0)


def log_density(value: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """log N(value; mean, diag deviation^2) over the last axis, nats."""
    return np.sum(-(((value - mean) / deviation) ** 2) / 2 - np.log(deviation) - np.log(2 * np.pi) / 2, axis=-1)


def kl(mean, deviation, other_mean, other_deviation) -> np.ndarray:
    """Textbook KL between diagonal Gaussians over the last axis."""
    ratio, shift = deviation / other_deviation, (mean - other_mean) / other_deviation
    return np.sum(ratio**2 + shift**2 - 1.0 - 2.0 * np.log(ratio), axis=-1) / 2


class Drawn:
    """A tanh-Gaussian policy's draws: pre_tanh [.., B, A], action, log_prob [.., B] of the action, nats."""

    def __init__(
        self, weights: Weights, observation: np.ndarray, epsilon: np.ndarray, log_std_range=(-5.0, 2.0)
    ) -> None:
        self.mean, self.deviation = gaussian(mlp(weights, observation), log_std_range)
        self.pre_tanh = self.mean + self.deviation * epsilon
        self.action = np.tanh(self.pre_tanh)
        jacobian = np.sum(np.log(1.0 - self.action**2), axis=-1)  # moderate u: no digits are lost here
        self.log_prob = log_density(self.pre_tanh, self.mean, self.deviation) - jacobian


# Steps ----------------------------------------------------------------------------------------------------------------


def finite_difference(loss: Callable[[Weights], float], at: Weights, step: float = 1e-6) -> Weights:
    """d loss / d weights by central differences."""
    gradients = [np.zeros_like(array) for array in at]
    for array, gradient in zip(at, gradients, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            values = []
            for shift in (step, -step):
                array[index] = kept + shift
                values.append(loss(at))
            array[index] = kept
            gradient[index] = (values[0] - values[1]) / (2.0 * step)
    return gradients


def first_gradient(optimizer, variables: Sequence) -> Weights:
    """What an Adam that has made one step was given: its first moment is then a tenth of it."""
    moments = {variable.path.split("/", 1)[-1]: variable for variable in optimizer.variables}
    found = [moment for name, moment in moments.items() if name.endswith("_momentum")]
    assert int(optimizer.iterations.numpy()) == 1 and len(found) == len(variables)
    return [np.asarray(moment, np.float64) * 10.0 for moment in found]


def assert_gradient(optimizer, variables: Sequence, expected: Weights, relative: float = 2e-3) -> None:
    """The optimiser's first gradient is `expected`, up to float32 of its largest entry."""
    largest = max(np.abs(array).max() for array in expected)
    assert largest > 1e-3  # else everything would pass
    for found, wanted in zip(first_gradient(optimizer, variables), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=relative * largest)


def assert_rate(before: Weights, after: Weights, gradient: Weights, rate: float) -> None:
    """Adam's first step is the rate against the sign of the gradient, wherever that is not all but 0."""
    for old, new, slope in zip(before, after, gradient, strict=True):
        counted = np.abs(slope) > 1e-3
        np.testing.assert_allclose((new - old)[counted], -rate * np.sign(slope)[counted], rtol=0.02, atol=2e-6)


def assert_followed(start: Weights, source, target, tau: float) -> None:
    """target = tau source + (1 - tau) what it was."""
    for old, new, found in zip(start, weights_of(source), weights_of(target), strict=True):
        np.testing.assert_allclose(found, tau * new + (1.0 - tau) * old, rtol=1e-5, atol=1e-6)


def assert_critic_step(agent, before: Weights, data: Transition, target: np.ndarray, rate: float) -> Weights:
    """The critics' first step was down the gradient of E[sum_j (Q_j - target)^2]; what they are after it."""

    def loss(weights: Weights) -> float:
        return float(((q_values(weights, data.observation, data.action) - target) ** 2).sum(axis=0).mean())

    gradient = finite_difference(loss, copies(before))
    assert_gradient(agent.critic_optimizer, agent.critic.trainable_variables, gradient)
    after = weights_of(agent.critic)
    assert_rate(before, after, gradient, rate)
    return after


def smoothed_action(
    actor: Weights, observation: np.ndarray, seed: tf.Tensor, deviation: float, clip: float
) -> np.ndarray:
    """TD3's next action: tanh of the network, moved by clipped noise and kept within +-1; both clips are in use."""
    moves = deviation * noise((ROWS, 2), seed, Purpose.TARGET_ACTION)
    shifted = np.tanh(mlp(actor, observation)) + np.clip(moves, -clip, clip)
    assert 0 < (np.abs(moves) > clip).sum() < moves.size and 0 < (np.abs(shifted) > 1.0).sum() < moves.size
    return np.clip(shifted, -1.0, 1.0)


def td_target(reward, discount, next_value, gamma: float) -> np.ndarray:
    """r + gamma (1 - d) V(s')."""
    return reward + gamma * discount * next_value


def mixed_value(values: np.ndarray, minimum_weight: float) -> np.ndarray:
    """The weighted mean of the smallest and the largest critic: [K, ..] -> [..]."""
    return minimum_weight * values.min(axis=0) + (1.0 - minimum_weight) * values.max(axis=0)


def stepped(value: float, violation: float, rate: float, logarithmic: bool = False) -> float:
    """A multiplier after Adam's first step: by the rate, up if violated, of itself or of its logarithm."""
    step = rate * np.sign(violation)
    return float(value * np.exp(step)) if logarithmic else value + step
