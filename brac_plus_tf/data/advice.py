"""What choosing an algorithm and its threshold needs to know of a dataset: coverage, spread, one policy or several."""

from typing import NamedTuple

import numpy as np

from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.data.dataset import OfflineDataset

_QUERIES, _STATES = 1500, 20_000
# Seven recordings of one policy have ratios of 0.97 to 1.07, mixtures, replay buffers and several people 1.24 and more
_SEVERAL = 1.15
# and of those, the two that join a medium and an expert policy have 0.91 and 1.00 of the variance between two groups
_SEPARATE = 0.9
_RANDOM = 0.9  # random actions have 1.0, all policies at most 0.73


class Behavior(NamedTuple):
    """How the data were made, as far as near neighbours in different episodes tell.

    coverage: median distance from a state to the nearest one of another episode, of that between two at random.
    spread: standard deviation of actions in like states, in halves of the action's range; all_actions: of all actions.
    change: mean squared difference of actions between like states of the file's two halves, to that within a half; 1
    if one policy recorded both. skills: share of the variance of rows' episode returns that lies between two groups.
    """

    coverage: float
    spread: float
    all_actions: float
    change: float
    skills: float

    @property
    def several(self) -> bool:
        """Whether the policy changed from the first half of the file to the second."""
        return self.change > _SEVERAL

    @property
    def separate(self) -> bool:
        """Whether they are two skills rather than one that grows."""
        return self.several and self.skills > _SEPARATE

    @property
    def random(self) -> bool:
        """Whether an action hardly depends on its state, of one policy: several spread over like states, too."""
        return not self.several and self.spread > _RANDOM * self.all_actions


def behavior_of(dataset: OfflineDataset) -> Behavior | None:
    """None if there are not at least two episodes in each half."""
    transitions, episode = dataset.transitions, dataset.places.episode
    number, count = np.unique(episode, return_inverse=True)
    if len(number) < 4:
        return None
    generator = np.random.default_rng(initializer_seed(0, "advice"))
    states = generator.choice(len(episode), min(len(episode), _STATES), replace=False)
    queries = generator.choice(len(episode), min(len(episode), _QUERIES), replace=False)
    observation = transitions.observation.astype(np.float64)
    deviation = observation[states].std(axis=0)
    observation = observation / np.where(deviation > 1e-9, deviation, np.inf)  # a constant entry tells nothing
    distance = _distances(observation[queries], observation[states])
    distance[episode[queries][:, None] == episode[states][None]] = np.inf
    nearest = states[distance.argmin(axis=1)]
    random = np.sqrt(np.mean(np.square(observation[queries] - observation[generator.permutation(queries)]), axis=1))
    action = transitions.action.astype(np.float64)
    half = count > np.median(count)
    same = half[queries][:, None] == half[states][None]
    if not same.any(axis=1).all() or same.all(axis=1).any():
        return None
    within, across = (np.where(allowed, distance, np.inf).argmin(axis=1) for allowed in (same, ~same))
    differences = [np.mean(np.square(action[queries] - action[states[found]])) for found in (within, across)]
    return Behavior(
        coverage=float(np.median(distance.min(axis=1)) / max(float(np.median(random)), 1e-12)),
        spread=float(np.sqrt(np.mean(np.square(action[queries] - action[nearest])) / 2.0)),
        all_actions=float(np.sqrt(np.mean(action.var(axis=0)))),
        change=float(differences[1] / max(differences[0], 1e-12)),
        skills=between_two_groups(dataset.episodes.returns, dataset.episodes.lengths),
    )


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square differences [N, M] of rows [N, D] and [M, D]."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)[None] - 2.0 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0) / first.shape[1])


def between_two_groups(values: np.ndarray, weights: np.ndarray) -> float:
    """Largest share of the variance of weighted values that lies between those below a limit and those above it.

    Otsu 1979's criterion: 0.64 for a normal distribution, 0.75 for a uniform one, 1 for two values.
    """
    order = np.argsort(values)
    value, weight = values[order].astype(np.float64), weights[order] / weights.sum()
    below, sums, mean = np.cumsum(weight)[:-1], np.cumsum(weight * value)[:-1], float(weight @ value)
    variance = float(weight @ np.square(value - mean))
    if variance <= 0.0:
        return 0.0
    between = np.square(mean * below - sums) / np.maximum(below * (1.0 - below), 1e-12)
    return float(between.max() / variance)


def advice(dataset: OfflineDataset) -> list[tuple[str, str]]:
    """(what, value) pairs beside `summary`'s."""
    returns = dataset.episodes.returns
    quantiles = ", ".join(f"{value:,.1f}" for value in np.quantile(returns, [0.05, 0.25, 0.5, 0.75, 0.95]))
    behavior = behavior_of(dataset)
    rows = [("return at 5, 25, 50, 75, 95 %", quantiles)]
    if behavior:
        rows += [
            ("coverage", f"{behavior.coverage:.2f} of what parts two states at random lies to the nearest elsewhere"),
            ("spread of like states' actions", f"{behavior.spread:.2f}, of all actions {behavior.all_actions:.2f}"),
            ("recorded by", _recorded_by(behavior)),
        ]
    return [*rows, ("suggestion", suggestion(dataset, behavior))]


def _recorded_by(behavior: Behavior) -> str:
    what = f"actions of the file's halves differ {behavior.change:.2f} times as much as within one"
    if not behavior.several:
        return f"one policy, or a mixture that never changes: {what}"
    kind = "several policies of separate skills" if behavior.separate else "several policies, or one that changed"
    return f"{kind}: {what}; {behavior.skills:.2f} of the returns' variance lies between two groups"


def suggestion(dataset: OfflineDataset, behavior: Behavior | None) -> str:
    """A preset, a margin of the threshold, and the reason."""
    rewards = dataset.transitions.reward
    if rewards.min() == rewards.max():
        return "bc/base.gin: all rewards are the same, so there is nothing but the behaviour to learn"
    preset, others = "brac_plus/short.gin", "let select --thresholds=0.5,1,2,4 decide"
    steady = f"{preset} with brac_plus/steady.gin after it"
    if behavior is None:
        return f"{preset}, margin 1: too few episodes to say more; {others}"
    if behavior.separate:
        return f"{steady}, which finds out the same: the policy has to move to the better skill as a whole"
    if behavior.random:
        return f"{preset}, margin 2: random actions bind the policy to nothing; {others}"
    if behavior.several:
        return f"{steady}: better and worse actions are recorded side by side; measured in the README"
    return f"{preset}, margin 0.5: one policy recorded what there is, far from it nothing is known; {others}"
