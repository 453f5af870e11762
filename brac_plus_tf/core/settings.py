"""Hyper-parameter objects: checked where they are given, described where they are recorded."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from brac_plus_tf.core.errors import UserError

P = ParamSpec("P")


R = TypeVar("R")


class HyperParameters:
    """Base of the frozen dataclasses that gin fills in: a value of the wrong kind is an error where it is given."""

    def __post_init__(self) -> None:
        """Raises UserError naming the field: wrong type, NaN, or a count below 0."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            _check(f"{type(self).__name__}.{field.name}", getattr(self, field.name), field.type)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a function, or the constructor of a class, whose arguments gin fills in.

    What a constructor so marked builds has `settings`: its keyword-only arguments by name, defaults included.
    """
    signature, owner = inspect.signature(function), function.__qualname__.removesuffix(".__init__")
    keyword_defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **keywords: P.kwargs) -> R:
        given = signature.bind(*arguments, **keywords).arguments
        for name, value in given.items():
            _check(f"{owner}.{name}", value, signature.parameters[name].annotation)
        if "self" in given:  # a constructor's: what was built can say of what
            given["self"].settings = {name: given.get(name, default) for name, default in keyword_defaults.items()}
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
    if getattr(wanted, "_is_protocol", False) and not getattr(wanted, "_is_runtime_protocol", False):
        return True
    return not isinstance(wanted, type) or isinstance(value, wanted)


def describe(settings: object) -> object:
    """A hyper-parameter object as JSON-ready data: class name and fields, functions by name."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {field.name: describe(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        return {type(settings).__name__: fields}
    if isinstance(settings, tuple | list):
        return [describe(item) for item in settings]
    if isinstance(settings, types.FunctionType):
        return f"{settings.__module__}.{settings.__qualname__}"
    return settings
