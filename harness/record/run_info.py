"""What `run.json` must hold: a folder that somebody edited ends in a message, not a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _has(value: object, **tests: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        k in value and test(value[k]) for k, test in tests.items()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_refusals(value: object) -> bool:
    entries = value if isinstance(value, list) else [None]
    return all(_has(entry, case=_is_text, code=_is_text, text=_is_text) for entry in entries)


# Key -> the rule in words, and whether a value obeys it.
RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "suite": ("a suite's name or null", lambda value: value is None or _is_text(value)),
    "cases": ("a list of case ids", _is_texts),
    "refused": ("a list of objects, each with the texts case, code and text", _is_refusals),
    "options": (
        "an object with the numbers time_limit and retries",
        lambda value: _has(value, time_limit=_is_number, retries=_is_number),
    ),
    "time": ("a number of seconds", _is_number),
    "versions": ("an object", lambda value: isinstance(value, dict)),
    "platform": ("an object with the text name", lambda value: _has(value, name=_is_text)),
}


def check_keys(path: Path, info: dict[str, Any], *keys: str) -> None:
    """Raise UsageError unless these keys of `run.json` (the file `path`) obey their rules."""
    for key in keys:
        rule, obeys = RULES[key]
        if key not in info or not obeys(info[key]):
            state = f"not {str(info[key])[:60]!r}" if key in info else "but the key is missing"
            raise UsageError(
                f"{str(path)!r}: {key} must be {rule}, {state}; "
                "restore the file as the harness wrote it, or start a new run"
            )


def check_present(path: Path, info: dict[str, Any], *keys: str) -> None:
    """Check as `check_keys` does, but only those keys that the file has."""
    check_keys(path, info, *(key for key in keys if key in info))


def check_format(path: Path, info: object, version: int) -> dict[str, Any]:
    """Return what the file holds. Raises UsageError for another format, or no object at all."""
    if not isinstance(info, dict):
        raise UsageError(
            f"{str(path)!r} must hold a JSON object, not a {type(info).__name__}; "
            "restore the file as the harness wrote it, or start a new run"
        )
    if info.get("format") != version:
        raise UsageError(
            f"the run folder {str(path.parent)!r} has format {info.get('format')!r}, "
            f"not {version}; read it with the version of the harness that wrote it"
        )
    return info
