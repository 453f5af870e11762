"""What came before a transition and what its next steps earned: the targets of a planner's regressions."""

import numpy as np

from brac_plus_tf.data.dataset import OfflineDataset, continues


def previous_actions(data: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
    """The action that led to each transition's state, [M, A], 0 where an episode begins; and [M] bool, if it is known.

    It is not where the transition before it is not among the data.
    """
    action, follows = data.transitions.action, continues(data.places)
    previous = np.where(follows[:, None], np.roll(action, 1, axis=0), 0.0).astype(np.float32)
    return previous, follows | (data.places.step == 0)


def window_returns(data: OfflineDataset, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The undiscounted sum of the rewards of each transition and the horizon - 1 after it, [M] float32, and if known.

    After a terminal nothing more is earned, so that such a window counts though it is shorter; one that a timeout or
    the end of the data cuts short is not known. [M] bool.
    """
    reward, terminal = data.transitions.reward.astype(np.float64), data.transitions.discount == 0.0
    follows = np.append(continues(data.places)[1:], False)
    total, known = reward, np.ones(len(reward), bool)
    # a window of n steps is a reward and the window of n - 1 steps from the next row on
    for _ in range(1, horizon):
        total = reward + np.where(terminal, 0.0, np.roll(total, -1))
        known = terminal | (follows & np.roll(known, -1))
    return total.astype(np.float32), known
