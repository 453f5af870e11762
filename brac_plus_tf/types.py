"""The vocabulary every module shares: a batch, its sizes, shape checks, and errors meant for the user.

Shape letters used throughout the package:
    B batch, O observation, A action, K mixture components or critics, E behaviour ensemble members,
    N action samples, Z latent, L latent samples. Sample and ensemble axes lead: [K, B], [N, B, A].
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import tensorflow as tf

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """Something the user can put right. Its message is one plain line: what is wrong, where, what to do."""


class HyperParameters:
    """Base of the frozen dataclasses that gin fills in: a value of the wrong kind is an error where it is given."""

    def __post_init__(self) -> None:
        """Raises UserError naming the field: wrong type, NaN, or a count below 0."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            _check(f"{type(self).__name__}.{field.name}", getattr(self, field.name), field.type)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a function, or the constructor of a class, whose arguments gin fills in."""
    signature, owner = inspect.signature(function), function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **keywords: P.kwargs) -> R:
        for name, value in signature.bind(*arguments, **keywords).arguments.items():
            _check(f"{owner}.{name}", value, signature.parameters[name].annotation)
        return function(*arguments, **keywords)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]  # gin reads it, and does not follow wrappers
    return wrapper


def _check(name: str, value: object, wanted: typing.Any) -> None:
    if wanted is not inspect.Parameter.empty and not _fits(value, wanted):
        plain = {int: "a whole number of at least 0", float: "a number", bool: "True or False", str: "a text"}
        kind = plain.get(wanted) or (wanted.__name__ if isinstance(wanted, type) else str(wanted))
        raise UserError(f"{name} is {value!r}, it must be {kind}")


def _fits(value: object, wanted: typing.Any) -> bool:
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in options)
    if origin in (tuple, Sequence):
        if not isinstance(value, tuple | list):
            return False
        items = options[:1] * len(value) if origin is Sequence or options[-1] is ... else options
        return len(items) == len(value) and all(map(_fits, value, items))
    if origin is Callable:
        return callable(value)
    if wanted is int:  # all of them count something
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return not isinstance(wanted, type) or getattr(wanted, "_is_protocol", False) or isinstance(value, wanted)


class Dimensions(NamedTuple):
    """Sizes that the networks are built for: entries of one observation and of one action."""

    observation: int
    action: int


class Transition(NamedTuple):
    """One batch of environment steps; leading axes are free ([B, ...] or [E, B, ...]).

    observation [.., O] and next_observation [.., O] in the units the networks see, action [.., A] in [-1, 1],
    reward [..] after rescaling, discount [..]: 0 at a true terminal, 1 elsewhere (a timeout is not a terminal).
    next_action [.., A]: what the data did next; where an episode ended or was cut it repeats `action`.
    """

    observation: tf.Tensor | np.ndarray
    action: tf.Tensor | np.ndarray
    reward: tf.Tensor | np.ndarray
    discount: tf.Tensor | np.ndarray
    next_observation: tf.Tensor | np.ndarray
    next_action: tf.Tensor | np.ndarray


Metrics = dict[str, tf.Tensor]


def check_shapes(*pairs: tuple[tf.Tensor | np.ndarray, str]) -> None:
    """Checks static shapes against letters, e.g. `check_shapes((action, "BA"), (reward, "B"))`.

    One letter stands for one axis; the same letter must mean the same size in all pairs. Sizes unknown while
    tracing are not compared. The check is static: it adds no operation to a compiled function.

    Raises:
      ValueError: if a rank or a size differs, naming the pair.
    """
    sizes: dict[str, int] = {}
    for index, (tensor, letters) in enumerate(pairs):
        shape = tuple(tensor.shape)
        if len(shape) != len(letters):
            raise ValueError(f"argument {index}: expected shape [{', '.join(letters)}], got {shape}")
        for letter, size in zip(letters, shape, strict=True):
            if size is None:
                continue
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"argument {index}: axis {letter} of {shape} should be {sizes[letter]}")
