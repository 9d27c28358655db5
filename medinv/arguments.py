"""Arguments of public functions: what an annotation says is what comes in, or a clear error.

`checked` compares each argument with its annotation. NumPy arrays and lists of numbers become
tensors where a tensor is expected, NumPy's numbers plain ones, lists of sizes tuples. What remains
is refused by the name of the function and the argument, before anything is computed with it.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Complex, Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, overload

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from medinv.errors import InputError, ShapeError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_HIDDEN = (".__init__", ".__call__", ".forward", ".__new__")
_NUMBERS: dict[type, tuple[Any, str]] = {
    float:  (Real, "a number"), int: (Integral, "a whole number"), complex: (Complex, "a number"),
    bool: ((bool, np.bool_), "True or False"),
}
_MAX_SHOWN = 60


class _MisfitError(Exception):
    """A value that its annotation does not allow."""


@overload
def checked(target: C, *own: str) -> C: ...


@overload
def checked(target: Callable[P, R], *own: str) -> Callable[P, R]: ...


def checked(target: Any, *own: str) -> Any:
    """Check a function's arguments by their annotations; a class's when it is made and called.

    Args:
        target: the function or class.
        own: arguments that it checks itself.

    Raises:
        ShapeError: (when called) a tensor was expected and something else came.
        InputError: (when called) another argument is not what its annotation says.

    Example:
        >>> @checked
        ... def total(x: Tensor, axes: tuple[int, ...] = ()) -> Tensor:
        ...     return x.sum(axes)
        >>> total(np.ones(3)).item()
        3.0
        >>> total(np.ones(3), axes="all")
        Traceback (most recent call last):
        medinv.errors.InputError: total: axes: expected whole numbers, got 'all'
    """
    if isinstance(target, type):
        for name in ("__init__", "__call__"):
            method = getattr(target, name)
            if inspect.isfunction(method):  # else a class that isn't called
                setattr(target, name, checked(method, *own))
        return target
    signature = inspect.signature(target)
    title = str(target.__qualname__)
    for ending in _HIDDEN:
        title = title.removesuffix(ending)
    title = title.rpartition(">.")[2]
    hints: dict[str, Any] = {}

    @wraps(target)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not hints:
            hints.update(typing.get_type_hints(target))
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in hints and name not in own and signature.parameters[name].kind not in (
                    inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                bound.arguments[name] = fitted(value, hints[name], f"{title}: {name}")
        return target(*bound.args, **bound.kwargs)

    return wrapper


def fitted(value: object, hint: Any, name: str) -> Any:  # noqa: ANN401  (any annotation)
    """``value`` as the annotation ``hint`` has it.

    Raises:
        ShapeError, InputError: see `checked`.

    Example:
        >>> fitted([4, 5], tuple[int, int], "shape")
        (4, 5)
    """
    try:
        return _fitted(value, hint)
    except _MisfitError:
        wants_tensor = any(map(_is_tensor, (hint, *get_args(hint))))
        error = ShapeError if wants_tensor else InputError
        raise error(f"{name}: expected {_expected(hint)}, got {_shown(value)}") from None


def _fitted(value: Any, hint: Any) -> Any:  # noqa: ANN401
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _fitted_to_any(value, args)
    if _is_tensor(hint):
        return _tensor(value)
    if hint in _NUMBERS:
        return _number(value, hint)
    if origin is tuple:
        return _tuple(value, args)
    if origin is Literal:
        return _if(any(type(value) is type(one) and value == one for one in args), value)
    if origin is Sequence or origin is list:
        return [_fitted(item, args[0]) for item in _items(value)]
    if origin in (Mapping, dict, collections.abc.Callable):
        return _if(isinstance(value, origin), value)
    if hint is None or hint is types.NoneType:
        return _if(value is None, value)
    is_class = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    return _if(not is_class or isinstance(value, hint), value)


def _is_tensor(hint: Any) -> bool:  # noqa: ANN401
    """Also with axes and a kind, as jaxtyping writes them; the function itself checks these."""
    return hint is Tensor or (isinstance(hint, type) and issubclass(hint, AbstractArray))


def _if(fits: bool, value: object) -> object:
    if not fits:
        raise _MisfitError
    return value


def _fitted_to_any(value: object, hints: tuple[Any, ...]) -> object:
    for hint in hints:  # what fits as it is comes before what can be converted
        if isinstance(hint, type) and isinstance(value, hint):
            return value
    for hint in hints:
        try:
            return _fitted(value, hint)
        except _MisfitError:
            continue
    raise _MisfitError


def _tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray | np.generic | list | tuple):
        raise _MisfitError
    try:
        array = np.asarray(value)
        _if(array.dtype.kind in "biufc", array)
        kind = array.dtype.newbyteorder("=")
        return torch.from_numpy(array.astype(kind, "C", copy=not array.flags.writeable))
    except (TypeError, ValueError, OverflowError) as error:
        raise _MisfitError from error


def _number(value: object, hint: type) -> object:
    kind, _ = _NUMBERS[hint]
    if isinstance(value, Tensor) and value.ndim == 0 and hint is not bool:
        value = value.item()
    _if(isinstance(value, kind), value)
    return value.item() if isinstance(value, np.generic) else value


def _items(value: object) -> Sequence[Any]:
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 1:
        return list(value.tolist())
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _MisfitError
    return value


def _tuple(value: object, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    items = _items(value)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(items)
    _if(len(items) == len(hints), items)
    return tuple(_fitted(item, hint) for item, hint in zip(items, hints, strict=True))


def _expected(hint: Any) -> str:  # noqa: ANN401
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(member) for member in args)
    if _is_tensor(hint):
        return "a tensor or a NumPy array"
    if hint in _NUMBERS:
        return _NUMBERS[hint][1]
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, Sequence, list):
        if origin is tuple and Ellipsis not in args:
            return f"({', '.join(_expected(member) for member in args)})"
        return _expected(args[0]).removeprefix("a ") + "s"
    if hint is types.NoneType:
        return "None"
    return str(getattr(hint, "__name__", hint))


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"an array {tuple(value.shape)} of {value.dtype}"
    text = repr(value)
    is_short = isinstance(value, str | int | float | complex | tuple | list | None)
    return text if is_short and len(text) <= _MAX_SHOWN else f"{type(value).__name__}"
