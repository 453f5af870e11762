"""From rows in recorded order to transitions: where episodes end, and what their last rows may teach.

With flags terminals and timeouts, a row yields:
  - terminal (timeout set or not): a transition with discount 0. Without stored next_observations its next
    observation is its own observation, which the discount masks.
  - timeout only: the state goes on but its successor was not recorded, so a transition (discount 1) only if the file
    stores next_observations.
  - last row of the file, unflagged: the episode is unfinished; as a timeout.
  - any other row: discount 1; next observation as stored, else the observation of the row that follows.
So no next observation crosses the boundary of an episode or of a file.

A file without 'timeouts' has its episodes cut where a stored next observation is not the observation of the row that
follows. Without next_observations, too, they are cut after every `horizon` steps that see no terminal. That is a
guess, wrong for data recorded in episodes of another length: D4RL's own halfcheetah v0 files hold 1,002 episodes in
1,000,000 rows (catalogue of TensorFlow Datasets), i.e. 999 rows each, so that a copy stripped of its timeouts would be
cut wrongly. Both are said aloud.

Compared with d4rl.qlearning_dataset (d4rl 1.1, default arguments), transitions are equal for files with timeouts and
without next_observations, apart from the next observation at a terminal (there: the next episode's first), and except
that qlearning_dataset
  (a) ignores stored next_observations, and so drops every timed-out row,
  (b) drops a row that is both terminal and timeout,
  (c) drops the last row of the data even if it is terminal,
  (d) without timeouts counts the steps of an episode that follows a terminal from 1 instead of 0: it drops the 999th
      of 1000 rows and joins the 1000th to the next episode,
  (e) with terminate_on_end=True joins every timed-out row to the next episode.
"""

from typing import NamedTuple

import numpy as np
from absl import logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Transition
from brac_plus_tf.data.rows import Rows

# Of an entry's standard deviation and of its value: float32 or float16 in one of two columns moves numbers by less, the
# beginning of another episode by far more.
_SAME_STATE = 1e-3
_BLOCK_ROWS = 65_536


class RecordedEpisodes(NamedTuple):
    """All P episodes in recorded order.

    returns [P] float64: undiscounted, in the environment's reward units. lengths [P] int64: rows. complete [P] bool:
    False for the episode that the end of its file breaks off.
    """

    returns: np.ndarray
    lengths: np.ndarray
    complete: np.ndarray


class Places(NamedTuple):
    """Where transitions lie in their episodes: episode [M] its number, step [M] the steps before it, both int32.

    Both grow with the row, so that a stretch of H transitions is one of consecutive steps exactly where the episode of
    its ends is the same and their steps differ by H - 1.
    known [M] bool: whether the transition's next observation was recorded. Where an episode ended by a terminal and
    none was, that of the transition is a stand-in which no value depends on, and no model may learn from.
    """

    episode: np.ndarray
    step: np.ndarray
    known: np.ndarray


def cut_rows(rows: Rows, horizon: int | None) -> np.ndarray:
    """Rows after which an episode was cut off without being terminal: [N] bool, False at every terminal.

    Args:
      rows: one file. horizon: the task's longest episode in steps, used if the file has nothing else to go by.
    Raises:
      UserError: if the file has neither timeouts nor next_observations and the horizon is unknown; if a row inside an
        episode leads elsewhere than to the row that follows.
    """
    if rows.timeouts is not None:
        cuts = rows.timeouts & ~rows.terminals
        _check_joins(rows, cuts)
        return cuts
    if rows.next_observations is not None:
        cuts = breaks(rows) & ~rows.terminals
        logging.warning(
            "%s has no 'timeouts': episodes are taken to be cut where next_observations lead elsewhere than to the "
            "next row (%s cuts)",
            rows.name,
            f"{int(cuts.sum()):,}",
        )
        return cuts
    if horizon is None:
        raise UserError(
            f"{rows.name}: key 'timeouts' is missing and no task gives a horizon to infer it from; store timeouts (1 "
            f"at the last row of each episode that did not end in a terminal, else 0) or name the task"
        )
    logging.warning("%s has no 'timeouts': episodes are taken to be cut after %d steps", rows.name, horizon)
    row = np.arange(len(rows.terminals))
    follows_terminal = np.concatenate(([True], rows.terminals[:-1]))
    start = np.maximum.accumulate(np.where(follows_terminal, row, 0))
    return ((row - start) % horizon == horizon - 1) & ~rows.terminals


def breaks(rows: Rows, tolerance: float = _SAME_STATE) -> np.ndarray:
    """[N] bool: whether a row's stored next observation is another one than that of the row that follows.

    tolerance: of the entry's standard deviation and of its value. False at the last row, and without next_observations.
    """
    found = np.zeros(len(rows), bool)
    if rows.next_observations is None:
        return found
    allowed = tolerance * rows.observations.std(axis=0, dtype=np.float64).astype(np.float32)
    for first in range(0, len(rows) - 1, _BLOCK_ROWS):
        end = min(first + _BLOCK_ROWS, len(rows) - 1)
        stated, follows = rows.next_observations[first:end], rows.observations[first + 1 : end + 1]
        found[first:end] = (np.abs(stated - follows) > allowed + tolerance * np.abs(follows)).any(axis=1)
    return found


def _check_joins(rows: Rows, cuts: np.ndarray) -> None:
    false_joins = breaks(rows) & ~last_rows(rows, cuts)
    if false_joins.any():
        row = int(np.argmax(false_joins))
        raise UserError(
            f"{rows.name}: key 'timeouts', row {row}: 0, and 'terminals' 0, but its next_observations are not the "
            f"observations of row {row + 1} ({int(false_joins.sum()):,} such rows); set timeouts to 1 at the last "
            f"row of each episode, or leave the key out to have episodes cut at these rows"
        )


def last_rows(rows: Rows, cuts: np.ndarray) -> np.ndarray:
    """[N] bool: whether the row is the last one of its episode that there is; `cuts` as from cut_rows."""
    ends = rows.terminals | cuts
    ends[-1] = True  # what would follow the last row of all was not recorded
    return ends


def following_rows(ends: np.ndarray) -> np.ndarray:
    """[N] int32: the row that holds what the data did next, at an episode's end the row itself; ends: last_rows."""
    return np.arange(len(ends), dtype=np.int32) + ~ends


def record_episodes(rows: Rows, cuts: np.ndarray) -> RecordedEpisodes:
    """Statistics of one file's episodes; `cuts` as from cut_rows."""
    last = np.flatnonzero(last_rows(rows, cuts))
    first = np.append(0, last[:-1] + 1)
    complete = np.ones(len(last), bool)
    complete[-1] = rows.terminals[-1] | cuts[-1]
    # float64: single precision would lose whole rewards at the end of long episodes
    return RecordedEpisodes(np.add.reduceat(rows.rewards, first, dtype=np.float64), last - first + 1, complete)


def finished_returns(rows: Rows) -> np.ndarray:
    """Undiscounted returns of the episodes that end within the rows, in order; the rows have timeouts."""
    episodes = record_episodes(rows, cut_rows(rows, None))
    return episodes.returns[episodes.complete]


def check_lengths(name: str, episodes: RecordedEpisodes, horizon: int) -> None:
    """Refuses episodes longer than `horizon` steps: most often a boundary that was not recorded.

    Raises:
      UserError: naming the first such episode and its first row.
    """
    longer = episodes.lengths > horizon
    if longer.any():
        index = int(np.argmax(longer))
        row = int(episodes.lengths[:index].sum())
        raise UserError(
            f"{name}: key 'timeouts', row {row}: the episode that starts here has {episodes.lengths[index]} steps, "
            f"more than the task's {horizon}; mark where episodes were cut, or set allow_longer_episodes "
            f"if they truly are longer (human demonstrations are)"
        )


def to_transitions(rows: Rows, cuts: np.ndarray) -> tuple[Transition, Places]:
    """Transitions of one file in the file's units, and their places: arrays of M <= N rows; `cuts` as from cut_rows."""
    discount = 1.0 - rows.terminals.astype(np.float32)
    ends = last_rows(rows, cuts)
    following = following_rows(ends)
    next_actions = rows.actions[following]
    for row, action in rows.following_actions.items():
        next_actions[row] = action
    places = _places(ends, recorded=rows.next_observations is not None)
    if rows.next_observations is not None:
        stored = rows.next_observations
        return Transition(rows.observations, rows.actions, rows.rewards, discount, stored, next_actions), places
    # A cut row's successor is unknown. A terminal one's is never looked at, so any finite numbers do.
    kept = np.flatnonzero(~ends | rows.terminals)
    transitions = Transition(
        rows.observations[kept],
        rows.actions[kept],
        rows.rewards[kept],
        discount[kept],
        rows.observations[following[kept]],
        next_actions[kept],
    )
    return transitions, Places(*(column[kept] for column in places))


def _places(ends: np.ndarray, recorded: bool) -> Places:
    first = np.append(True, ends[:-1])
    row = np.arange(len(ends), dtype=np.int32)
    start = np.maximum.accumulate(row * first)
    return Places(np.cumsum(first, dtype=np.int32) - 1, row - start, ~ends | recorded)
