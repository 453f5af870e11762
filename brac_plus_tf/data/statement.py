"""What data say of themselves beside their rows. It is used, and a setting that contradicts it is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from brac_plus_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Statement:
    """Of one file or source; None where it says nothing.

    environment: the environment or task that it was recorded in. action_low, action_high: bounds of actions in that
    environment's units, one number or [A], both or neither. horizon: environment steps after which episodes were cut
    off. discount: by which returns are to be discounted.
    """

    environment: str | None = None
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    horizon: int | None = None
    discount: float | None = None


def make_statement(name: str, found: Callable[[str], Any], environment: str | None) -> Statement:
    """A statement of anybody's values.

    Args:
      name: what messages call the data. found: key -> the value under `action_low`, `action_high`, `horizon` and
        `discount`, or None. environment: as it is.
    Raises:
      UserError: naming the key of a value that cannot be meant.
    """
    low, high = (_bound(name, key, found(key)) for key in ("action_low", "action_high"))
    if (low is None) != (high is None):
        raise UserError(f"{name}: states one of action_low and action_high without the other; store both or neither")
    if low is not None and high is not None and not np.isfinite([*low.flat, *high.flat]).all():
        low = high = None  # unbounded: then the data do not say how actions are to be scaled
    horizon, discount = (_number(name, key, found(key)) for key in ("horizon", "discount"))
    if horizon is not None and not (horizon >= 1 and horizon == int(horizon)):
        raise UserError(f"{name}: states a horizon of {horizon:g}; store a number of steps, 1 or more")
    if discount is not None and not 0.0 < discount <= 1.0:
        raise UserError(f"{name}: states a discount of {discount:g}; store one in (0, 1]")
    return Statement(environment, low, high, None if horizon is None else int(horizon), discount)


def _bound(name: str, key: str, value: Any) -> np.ndarray | None:
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray("")
    if array.dtype.kind not in "iuf" or array.ndim > 1 or array.size == 0 or np.isnan(array.astype(float)).any():
        raise UserError(
            f"{name}: states {key} as {_shown(value)}; store one number, or one for each entry of an action"
        )
    return array.astype(np.float64)


def _number(name: str, key: str, value: Any) -> float | None:
    if value is None:
        return None
    array = np.asarray("" if isinstance(value, list | dict) else value)
    if array.dtype.kind not in "iuf" or array.size != 1 or not np.isfinite(array.astype(float)).all():
        raise UserError(f"{name}: states {key} as {_shown(value)}; store one number")
    return float(array.reshape(()))


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
