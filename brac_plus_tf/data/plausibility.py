"""What no flag says but the numbers do: rows that hardly follow each other, columns in which nothing happens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.data.rows import Rows

_SAMPLE, _BLOCK_ROWS, _NAMED = 10_000, 65_536, 5
# A step is suspicious beyond half of what parts two rows at random, if others are far smaller. Of eleven recordings of
# six robots no row of five, and two rows of the last, are so large inside an episode; of their boundaries 74 to 100 %
# are, but for HalfCheetah's, whose ordinary steps are as large, and the shortest ones of a random Hopper.
_OF_RANDOM, _OF_USUAL = 0.5, 8.0
# So many rows with one and the same value are no coincidence in a column that changes elsewhere; of the recordings
# above none has them.
_FROZEN_ROWS, _FROZEN_SHARE = 1000, 0.02


def jumps(observations: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Rows after which the state is a different one, though no episode ends there.

    Distances are root mean squares over the entries, each in its standard deviation. Where a usual step is as large as
    what parts two rows at random, nothing can be told and nothing is found.

    Args:
      observations: [N, O]. ends: [N] bool, whether the row is its episode's last.
    Returns:
      numbers of rows, ascending.
    """
    count = len(observations)
    inside = np.flatnonzero(~ends[:-1])
    if len(inside) < 2:
        return inside[:0]
    generator = np.random.default_rng(initializer_seed(0, "plausibility"))
    sample = observations[generator.integers(count, size=min(count, _SAMPLE))].astype(np.float64)
    spread = sample.std(axis=0)
    kept = spread > 1e-9 * (1.0 + np.abs(sample).max(axis=0))  # a constant entry tells nothing
    if not kept.any():
        return inside[:0]

    def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        difference = (first[:, kept].astype(np.float64) - second[:, kept]) / spread[kept]
        return np.sqrt(np.mean(np.square(difference), axis=1))

    some = inside[generator.integers(len(inside), size=min(len(inside), _SAMPLE))]
    usual = np.median(distance(observations[some + 1], observations[some]))
    random = np.median(distance(sample, sample[generator.permutation(len(sample))]))
    limit = max(_OF_RANDOM * random, _OF_USUAL * usual)
    found = [
        rows[distance(observations[rows + 1], observations[rows]) > limit]
        for rows in (inside[first : first + _BLOCK_ROWS] for first in range(0, len(inside), _BLOCK_ROWS))
    ]
    return np.concatenate(found)


class Frozen(NamedTuple):
    """An entry that has one value from row `first` to row `last`; everywhere: in all rows there are."""

    entry: int
    first: int
    last: int
    everywhere: bool


def frozen_entries(values: np.ndarray) -> list[Frozen]:
    """Entries of [N, D] that never change, or stand still for very long: for each its longest stretch."""
    count, found = len(values), []
    least = count if count < _FROZEN_ROWS else max(_FROZEN_ROWS, int(_FROZEN_SHARE * count))
    for entry in range(values.shape[1]) if count > 1 else ():
        changes = np.flatnonzero(values[1:, entry] != values[:-1, entry]) + 1
        edges = np.concatenate([[0], changes, [count]])
        longest = int(np.argmax(np.diff(edges)))
        first, last = int(edges[longest]), int(edges[longest + 1]) - 1
        if last - first + 1 >= least:
            found.append(Frozen(entry, first, last, not len(changes)))
    return found


def warn_of_frozen_entries(rows: Rows) -> None:
    """Warns of `frozen_entries` of observations and actions: a sensor or a motor that was off says nothing."""
    for key, values in (("observations", rows.observations), ("actions", rows.actions)):
        frozen = frozen_entries(values)
        if everywhere := [one.entry for one in frozen if one.everywhere]:
            logging.warning(
                "%s: key '%s': %s the same in every row, and nothing can be learned from it",
                rows.name,
                key,
                f"entry {everywhere[0]} is" if len(everywhere) == 1 else f"entries {_some(everywhere)} are",
            )
        for one in [one for one in frozen if not one.everywhere][:_NAMED]:
            logging.warning(
                "%s: key '%s', rows %d to %d: entry %d stands still at %g and changes elsewhere; if it was not "
                "recorded there, leave these rows out",
                rows.name,
                key,
                one.first,
                one.last,
                one.entry,
                values[one.first, one.entry],
            )


def _some(numbers: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, numbers[:_NAMED])) + (", .." if len(numbers) > _NAMED else "")


def warn_of_needless_ends(rows: Rows, ends: np.ndarray, breaks: np.ndarray) -> None:
    """Warns where a flag ends an episode and yet the next row begins in the very state that this one led to.

    Args:
      ends, breaks: [N] bool, as from `last_rows` and `breaks`.
    """
    if rows.next_observations is None:
        return
    found = np.flatnonzero(ends[:-1] & ~breaks[:-1])
    if len(found):
        logging.warning(
            "%s: keys 'terminals' and 'timeouts', rows %s: end an episode, yet the next row goes on where %s led to; "
            "if the flags stand in the wrong rows, move them",
            rows.name,
            _some(found),
            "this one" if len(found) == 1 else f"these {len(found):,} rows",
        )


def warn_of_jumps(rows: Rows, ends: np.ndarray) -> None:
    """Warns of `jumps` where rows are all there is to say what follows what."""
    if rows.next_observations is not None:
        return  # which have been compared with the rows that follow
    found = jumps(rows.observations, ends)
    if len(found):
        logging.warning(
            "%s: key 'timeouts', rows %s: after %s the state is a different one, far beyond the usual step, though "
            "neither 'terminals' nor 'timeouts' says that an episode ended; set timeouts to 1 there if one did",
            rows.name,
            _some(found),
            "this row" if len(found) == 1 else f"these {len(found):,} rows",
        )
