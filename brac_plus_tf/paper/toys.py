"""The paper's two toy examples (appendices A and B): nothing but arithmetic, no data and no run."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.networks import CriticNetwork
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.penalties import action_gradient_penalty
from brac_plus_tf.paper.picture import Line, Panel, Picture, rounded

# Appendix A ---------------------------------------------------------------------------------------------------------

_ROWS, _HIDDEN, _RATE, _PENALTY, _STEPS = 100, (64, 64), 0.01, 0.1, 2000


def truth(x: np.ndarray) -> np.ndarray:
    """5 sin(pi x)."""
    return 5.0 * np.sin(np.pi * x)


class ToyRows(NamedTuple):
    """x in (-0.8, 0.8) with its noisy y, and x beyond it, where nothing is known: [100] each."""

    x: np.ndarray
    y: np.ndarray
    beyond: np.ndarray


def toy_rows(seed: int) -> ToyRows:
    """Drawn as appendix A says."""
    generator = np.random.default_rng(initializer_seed(seed, "toy regression"))
    x = generator.uniform(-0.8, 0.8, _ROWS)
    side = np.where(generator.random(_ROWS) < 0.5, -1.0, 1.0)
    return ToyRows(x, truth(x) + generator.normal(0.0, 0.5, _ROWS), side * generator.uniform(0.8, 2.0, _ROWS))


def fit_toy(rows: ToyRows, penalty: float, seed: int, steps: int = _STEPS) -> CriticNetwork:
    """f of E[(f(x) - y)^2] + penalty E[f'(x_beyond)^2]: a critic whose action is x, in a state that says nothing."""
    network = CriticNetwork(_HIDDEN, 1, Dimensions(1, 1), seed, "toy")
    optimizer = build_adam(_RATE, network.trainable_variables)
    x, y, beyond = (tf.constant(values[:, None], tf.float32) for values in rows)
    state, everywhere = tf.zeros([_ROWS, 1]), tf.ones([_ROWS])

    @tf.function
    def step() -> None:
        def loss() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            error = tf.reduce_mean(tf.square(network(state, x)[0] - y[:, 0]))
            slope = action_gradient_penalty(lambda s, a: network(s, a)[0], state, beyond, everywhere)
            return error + penalty * tf.reduce_mean(slope), {}

        gradient_step(loss, network.trainable_variables, optimizer)

    for _ in range(steps):
        step()
    return network


def toy_values(network: CriticNetwork, x: np.ndarray) -> np.ndarray:
    """f(x), [N]."""
    action = tf.constant(x[:, None], tf.float32)
    return network(tf.zeros_like(action), action)[0].numpy().astype(np.float64)


def extrapolation(seed: int = 0) -> Picture:
    """Figure 4."""
    rows, x = toy_rows(seed), np.linspace(-2.0, 2.0, 201)
    fits = {
        "without gradient penalty": toy_values(fit_toy(rows, 0.0, seed), x),
        "with gradient penalty": toy_values(fit_toy(rows, _PENALTY, seed), x),
    }
    lines = [Line(label, rounded(x), rounded(values)) for label, values in fits.items()]
    known = Line("5 sin(pi x)", rounded(x), rounded(truth(x)), black=True)
    order = np.argsort(rows.x)
    data = Line("data", rounded(rows.x[order]), rounded(rows.y[order]), kind="points")
    panel = Panel("", "x", "f(x)", (known, data, *lines), (("edge of the data", -0.8), ("edge of the data", 0.8)))
    caption = (
        f"Regression on 100 points of (-0.8, 0.8), with and without {_PENALTY} times the mean squared slope at 100 "
        f"points beyond; {_STEPS} full steps of Adam at {_RATE}, seed {seed} (the paper's figure 4)."
    )
    return Picture("4", caption, (panel,))


# Appendix B ---------------------------------------------------------------------------------------------------------

_DEVIATION, _KERNEL_WIDTH = 0.2, 10.0  # of pi; of the Laplacian kernel, the paper's for Hopper (Table 3)
_GRID = np.linspace(-14.0, 14.0, 2801)  # of actions: mass beyond it is below 1e-80


class Mixture(NamedTuple):
    """A density over one action: sum_k weight_k N(mean_k, deviation_k)."""

    weight: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def log_density(self, u: np.ndarray) -> np.ndarray:
        """log p(u), of any shape."""
        parts = [
            np.log(w) - 0.5 * ((u - m) / d) ** 2 - np.log(d) - 0.5 * np.log(2.0 * np.pi)
            for w, m, d in zip(*self, strict=True)
        ]
        return np.asarray(np.logaddexp.reduce(parts))


ONE_MODE = Mixture((1.0,), (0.0,), (1.0,))
TWO_MODES = Mixture((0.3, 0.7), (-1.5, 1.0), (0.3, 0.5))


def divergences_from(behavior: Mixture, centers: np.ndarray) -> dict[str, np.ndarray]:
    """KL(pi || pi_b) and KL(pi_b || pi), nats, and the Laplacian MMD of pi = N(x, 0.2), by sums over a fine grid.

    Args:
      centers: x [N].
    Returns:
      [N] each.
    """
    cell = _GRID[1] - _GRID[0]
    log_behavior = behavior.log_density(_GRID)
    log_policy = np.stack([Mixture((1.0,), (x,), (_DEVIATION,)).log_density(_GRID) for x in centers])
    policy, other = np.exp(log_policy) * cell, np.exp(log_behavior) * cell  # probabilities of cells
    kernel = np.exp(-np.abs(_GRID[:, None] - _GRID[None, :]) / (2.0 * _KERNEL_WIDTH))
    smooth = policy @ kernel
    squared = (smooth * policy).sum(1) + other @ kernel @ other - 2.0 * smooth @ other
    return {
        "KL(pi || pi_b)": (policy * (log_policy - log_behavior)).sum(1),
        "KL(pi_b || pi)": (other * (log_behavior - log_policy)).sum(1),
        "MMD, Laplacian": np.sqrt(np.maximum(squared, 0.0)),
    }


def divergence_shapes() -> Picture:
    """Figure 5: each divergence as a share of its largest value, as they have no unit in common."""
    centers = np.linspace(-10.0, 10.0, 201)
    panels = []
    for title, behavior in (
        ("one mode: N(0, 1)", ONE_MODE),
        ("two modes: 0.3 N(-1.5, 0.3) + 0.7 N(1, 0.5)", TWO_MODES),
    ):
        density = np.exp(behavior.log_density(centers))
        lines = [Line("pi_b", rounded(centers), rounded(density / density.max()), black=True)]
        lines += [
            Line(label, rounded(centers), rounded(values / values[np.abs(centers) <= 4.0].max()))
            for label, values in divergences_from(behavior, centers).items()
        ]
        shown = [_within(line, 4.0) for line in lines]
        panels.append(Panel(title, "x", "share of its largest value here", tuple(shown)))
    caption = (
        "Three divergences of pi = N(x, 0.2) from a behaviour policy pi_b of one mode and of two, each divided by its "
        f"largest value for |x| <= 4; the kernel's width is {_KERNEL_WIDTH:g} (the paper's figure 5). KL(pi || pi_b) "
        "has a minimum at each mode, the others one alone, at neither."
    )
    return Picture("5", caption, tuple(panels))


def _within(line: Line, edge: float) -> Line:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if abs(x) <= edge]
    return Line(line.label, tuple(x for x, _ in kept), tuple(y for _, y in kept), black=line.black)
