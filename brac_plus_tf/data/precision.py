"""What float32, in which everything is computed, cannot hold of recorded numbers."""

import numpy as np

from brac_plus_tf.core.errors import UserError

# Sums of squares of so large numbers, over a million rows, still fit float32, which ends at 3.4e38.
LARGEST = 1e15
_TOLERATED = 0.01  # of the standard deviation
# Entries that vary less count as if they varied by this: what moves a constant's twelfth digit is noise, not a state.
_SMALLEST_DEVIATION = 1e-3


def is_exact(dtype: np.dtype) -> bool:
    """Whether float32 holds every number of that type."""
    return np.can_cast(dtype, np.float32)


class RoundingLoss:
    """How far a column's float32 values are from the recorded ones, in parts of how much each entry varies.

    Fed with blocks of rows, so that a file need not be held in both types.
    """

    def __init__(self) -> None:
        self._count = 0
        # [entries], from the first block on; moments are of what lies above the first row, which is 0 for a constant
        self._first = self._mean = self._squares = self._error = self._recorded = self._held = np.zeros(1)

    def add(self, recorded: np.ndarray, held: np.ndarray) -> None:
        """Rows [N] or [N, entries] as they were recorded, and what float32 makes of them."""
        if len(recorded) == 0:
            return
        # numbers that are not finite, or too large, are refused elsewhere; here they may give what they like
        with np.errstate(invalid="ignore", over="ignore"):
            exact = recorded.reshape(len(recorded), -1).astype(np.float64)
            if self._count == 0:
                self._first = exact[0]
                self._mean, self._squares, self._error, self._recorded, self._held = np.zeros((5, exact.shape[1]))
            self._keep_worst(exact, held.reshape(exact.shape))
            # Chan, Golub and LeVeque (1983): moments of two parts give those of their union, without cancellation
            above = exact - self._first
            share = len(above) / (self._count + len(above))
            change = above.mean(axis=0) - self._mean
            self._squares = self._squares + above.var(axis=0) * len(above) + change**2 * self._count * share
            self._mean = self._mean + change * share
            self._count += len(above)

    def _keep_worst(self, exact: np.ndarray, held: np.ndarray) -> None:
        error = np.abs(exact - held)
        worst = error.argmax(axis=0), np.arange(error.shape[1])
        larger = error[worst] > self._error
        self._recorded = np.where(larger, exact[worst], self._recorded)
        self._held = np.where(larger, held[worst], self._held)
        self._error = np.where(larger, error[worst], self._error)

    def check(self, name: str, key: str) -> None:
        """Raises UserError, naming an entry, if rounding hides more than 1 % of what tells its values apart."""
        deviation = np.sqrt(self._squares / max(self._count, 1))
        lost = (deviation > 0.0) & (self._error > _TOLERATED * np.maximum(deviation, _SMALLEST_DEVIATION))
        if lost.any():
            entry = int(np.argmax(lost))
            recorded, held, mean = (float(of[entry]) for of in (self._recorded, self._held, self._first + self._mean))
            raise UserError(
                f"{name}: key '{key}', entry {entry}: float32 holds {recorded!r} as {held!r}, where values differ by "
                f"{deviation[entry]:.2g} (standard deviation); subtract a constant, such as their mean {mean:.10g}"
            )
