"""What no flag says but the numbers do: rows that hardly follow each other."""

import numpy as np
from absl import logging

from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.data.rows import Rows

_SAMPLE, _BLOCK_ROWS, _NAMED = 10_000, 65_536, 5
# A step is suspicious beyond half of what parts two rows at random, if others are far smaller. Of eleven recordings of
# six robots no row of five, and two rows of the last, are so large inside an episode; of their boundaries 74 to 100 %
# are, but for HalfCheetah's, whose ordinary steps are as large, and the shortest ones of a random Hopper.
_OF_RANDOM, _OF_USUAL = 0.5, 8.0


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


def warn_of_jumps(rows: Rows, ends: np.ndarray) -> None:
    """Warns of `jumps` where rows are all there is to say what follows what."""
    if rows.next_observations is not None:
        return  # which have been compared with the rows that follow
    found = jumps(rows.observations, ends)
    if len(found):
        named = ", ".join(map(str, found[:_NAMED])) + (", .." if len(found) > _NAMED else "")
        logging.warning(
            "%s: key 'timeouts', rows %s: after %s the state is a different one, far beyond the usual step, though "
            "neither 'terminals' nor 'timeouts' says that an episode ended; set timeouts to 1 there if one did",
            rows.name,
            named,
            "this row" if len(found) == 1 else f"these {len(found):,} rows",
        )
