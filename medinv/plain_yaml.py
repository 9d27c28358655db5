"""YAML (and JSON, which it contains) from strangers: plain data of a bounded size, or an error.

`yaml.safe_load` runs no code, but what it makes can still hang or break its reader: aliases of
aliases stand for billions of values, deep brackets exhaust Python's stack, a key may be given
twice and the first value is lost, and a lone surrogate cannot be written to any file.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

from medinv.errors import InputError

_MAX_CHARACTERS = 100_000
_MAX_VALUES = 20_000
_MAX_DEPTH = 40
_LARGEST = 2**63
_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """The safe loader without dates, binary data and sets; no key may be given twice."""

    yaml_constructors = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _TAGS
    }

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False
                          ) -> dict[Hashable, Any]:
        """A mapping of different keys; those that a merge (``<<``) brings may be repeated."""
        keys = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {str(key.value)[:80]!r} is given twice; keep one",
                    key.start_mark)
            keys.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, name: str, error: type[InputError]) -> object:
    """The plain data of a YAML text: dicts, lists, texts, numbers, true, false and null.

    Args:
        text: at most 100,000 characters.
        name: what the text is, for messages.
        error: raised where it is not as expected.

    Raises:
        InputError: (``error``) no YAML, a key given twice, or more than `check_plain` allows.

    >>> load_yaml("views: 30", "recipe", InputError)
    {'views': 30}
    """
    if len(text) > _MAX_CHARACTERS:
        raise error(f"{name}: expected at most {_MAX_CHARACTERS} characters of YAML, got "
                    f"{len(text)}; check that it is the right file")
    try:
        content = yaml.load(text, _Loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as problem:
        raise error(f"{name}: not valid YAML: {problem}") from problem
    except RecursionError:
        raise error(f"{name}: not valid YAML: brackets are nested too deeply") from None
    except (ValueError, OverflowError, TypeError, LookupError) as problem:
        raise error(f"{name}: not valid YAML: a value cannot be read "
                    f"({str(problem)[:120]})") from problem
    check_plain(content, name, error)
    return content


def check_plain(content: object, name: str, error: type[InputError]) -> None:
    """Refuse data that are too many, too deep, or that JSON cannot hold.

    Args:
        content: what a YAML or JSON text, or a program, gave.
        name: what it is, for messages.
        error: raised where it is refused.

    Raises:
        InputError: (``error``) over 20,000 values (aliases count as often as they are used), 40
            levels, a number beyond 64 bits or not finite, or text that cannot be encoded.

    >>> check_plain({"seed": 10**30}, "recipe", InputError)
    Traceback (most recent call last):
    medinv.errors.InputError: recipe: seed: expected an integer below 2^63, got one of 31 digits
    """
    count = 0
    waiting: list[tuple[object, tuple[str, ...]]] = [(content, ())]
    while waiting:
        value, place = waiting.pop()
        where = f"{name}: {'.'.join(place)}" if place else name
        count += 1
        if count > _MAX_VALUES:
            raise error(f"{name}: expected at most {_MAX_VALUES} values (aliases count as often "
                        "as they are used), found more; shorten it")
        if len(place) > _MAX_DEPTH:
            raise error(f"{name}: expected at most {_MAX_DEPTH} levels, found more at "
                        f"{'.'.join(place[:3])}...; shorten it")
        if isinstance(value, dict):
            for key in value:
                _check_key(key, where, error)
            waiting += [(item, (*place, str(key))) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(item, (*place, str(i))) for i, item in enumerate(value)]
        else:
            _check_scalar(value, where, error)


def _check_key(key: object, where: str, error: type[InputError]) -> None:
    if isinstance(key, int | float) and not isinstance(key, bool):
        return _check_scalar(key, where, error)
    if not isinstance(key, str):
        raise error(f"{where}: expected text as a key, got {str(key)[:80]!r}")
    return _check_scalar(key, where, error)


def _check_scalar(value: object, where: str, error: type[InputError]) -> None:
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        digits = round(value.bit_length() * 0.30103 + 0.5)
        raise error(f"{where}: expected an integer below 2^63, got one of {digits} digits")
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where}: expected a finite number, got {value}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise error(f"{where}: expected text, got a character that no file can hold (a lone "
                        f"surrogate) in {ascii(value[:80])}") from None
