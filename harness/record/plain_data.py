"""Read frozen dataclasses from JSON, and check each value against its field's type.

Messages name the place of an unreadable value: `calls[0].rows.wrong must be int, not 'x'`.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read(kind: type[T], data: object, place: str = "") -> T:
    """Return an object of a dataclass. Unknown keys are ignored.

    place: where `data` was, for messages. Raises ValueError for a value that does not fit.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{place or kind.__name__} must be an object, not {str(data)[:60]!r}")
    values, hints = {}, get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        at = f"{place}.{field.name}" if place else field.name
        if field.name in data:
            values[field.name] = _value(hints[field.name], data[field.name], at)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{at} is missing")
    return kind(**values)


def _value(hint: Any, data: Any, place: str) -> Any:
    """Return `data` as a value of this type."""
    if hint is Any:
        return data
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(parts, data, place)
    if origin is tuple:
        return _tuple(parts, data, place)
    if origin is dict:
        return _dict(parts[1], data, place)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read(hint, data, place)
    kinds = (int, float) if hint is float else hint
    if isinstance(data, kinds) and (hint is bool or not isinstance(data, bool)):
        return data
    raise ValueError(f"{place} must be {hint.__name__}, not {str(data)[:60]!r}")


def _one_of(hints: tuple[Any, ...], data: Any, place: str) -> Any:
    reasons = []
    for hint in hints:
        try:
            return _value(hint, data, place)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0])


def _tuple(hints: tuple[Any, ...], data: Any, place: str) -> tuple[Any, ...]:
    """Return a tuple from a list; hints: of each value, or of all of them and an ellipsis."""
    if not isinstance(data, list | tuple):
        raise ValueError(f"{place} must be a list, not {str(data)[:60]!r}")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(data)
    if len(hints) != len(data):
        raise ValueError(f"{place} must have {len(hints)} values, not {len(data)}")
    pairs = enumerate(zip(hints, data, strict=True))
    return tuple(_value(hint, value, f"{place}[{i}]") for i, (hint, value) in pairs)


def _dict(hint: Any, data: Any, place: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{place} must be an object, not {str(data)[:60]!r}")
    return {str(key): _value(hint, value, f"{place}.{key}") for key, value in data.items()}
