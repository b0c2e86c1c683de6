"""Define the contents of `run.json`, and check a file that may have been edited by hand.

A file that breaks a rule ends in a message, not in a traceback.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
# Of run.json and of the events. 3 lacks a result's earlier attempts; 2 had other names of reasons
# and row numbers.
FORMAT = 4
READABLE = (3, FORMAT)
_RESTORE = "restore the file as the harness wrote it, or start a new run"


@dataclass(frozen=True, kw_only=True)
class RefusedCase:
    """A point that did not run, with the code and the text of the reason."""

    case: str  # id
    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Hold options. time_limit: seconds a case. seed: if the run draws its cases, else None."""

    time_limit: float
    retries: int
    save_tensors: bool = False
    plain_call: bool = False  # whether each case has one, see harness.checks.plain_call
    undeclared: bool = False  # whether rows are taken to state no numerics
    seed: int | None = None
    time_budget: float | None = None  # seconds, if cases were chosen by it
    trace: str | None = None  # the folder of recorded workloads, if cases are of any


@dataclass(frozen=True, kw_only=True)
class RunMachine:
    """Describe the machine of a run; see `harness.plan.machine.Machine`."""

    name: str  # of the platform
    features: tuple[str, ...] = ()
    devices: int = 0
    device_bytes: int = 0
    cores: int = 0
    memory_bytes: int = 0
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardOf:
    """Say which shard of a suite a run is, from 1. Hashes: of all points, and of the split."""

    index: int
    count: int
    suite_hash: str
    split_hash: str


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Hold what is needed to report, repeat and resume a run.

    cases: ids of the cases to run; for a run that draws cases as it runs, of those that it ran.
    git: the commit, None outside of a repository. shard: None if the run is of the whole suite.
    """

    suite: str | None  # None if cases were selected by id
    cases: tuple[str, ...]
    refused: tuple[RefusedCase, ...]
    options: RunOptions
    platform: RunMachine
    time: float = 0.0  # when it began, in seconds
    argv: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    git: str | None = None
    shard: ShardOf | None = None
    left_out: tuple[str, ...] = ()  # ids of cases that a time budget left out: not asked for

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `run.json`."""
        data = {"format": FORMAT, **dataclasses.asdict(self)}
        if self.options.seed is None:
            del data["options"]["seed"]
        if self.options.trace is None:
            del data["options"]["trace"]
        if self.options.time_budget is None:
            del data["options"]["time_budget"], data["left_out"]
        if self.shard is None:
            del data["shard"]
        return data

    @classmethod
    def from_json(cls, path: Path, data: object) -> RunInfo:
        """Return the contents of the file `path`. Raises UsageError that names the rule it breaks.

        Unknown keys are ignored.
        """
        info = _checked(path, data)
        known: dict[str, Any] = {
            **info,
            "cases": tuple(info["cases"]),
            "left_out": tuple(info.get("left_out", ())),
            "refused": tuple(_made(RefusedCase, entry) for entry in info["refused"]),
            "options": _made(RunOptions, info["options"]),
            "platform": _made(RunMachine, info["platform"]),
            "argv": tuple(info.get("argv", ())),
            "shard": _made(ShardOf, info["shard"]) if info.get("shard") else None,
        }
        return _made(cls, known)


def _made(kind: type[T], data: dict[str, Any]) -> T:
    """Return a dataclass object from those values that are its fields; lists become tuples."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in data.items() if name in names}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_null_or(test: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or test(value)


def _has(value: object, **tests: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        k in value and test(value[k]) for k, test in tests.items()
    )


def _has_if_any(value: object, **tests: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        test(value[k]) for k, test in tests.items() if k in value
    )


def _is_refusals(value: object) -> bool:
    entries = value if isinstance(value, list) else [None]
    return all(_has(entry, case=_is_text, code=_is_text, text=_is_text) for entry in entries)


_SIZES = ("devices", "device_bytes", "cores", "memory_bytes")
_OPTIONAL = ("time", "argv", "versions", "git", "shard", "left_out")
# Key, the rule in words, and whether a value obeys it.
RULES: tuple[tuple[str, str, Callable[[object], bool]], ...] = (
    ("cases", "a list of case ids", _is_texts),
    ("left_out", "a list of case ids", _is_texts),
    ("refused", "a list of objects, each with the texts case, code and text", _is_refusals),
    ("suite", "a suite's name or null", _is_null_or(_is_text)),
    (
        "options",
        "an object with the numbers time_limit and retries",
        lambda value: _has(value, time_limit=_is_number, retries=_is_number),
    ),
    (
        "options",
        "an object with true or false as save_tensors, plain_call and undeclared, and a number or "
        "null as seed and time_budget, and a text or null as trace",
        lambda value: _has_if_any(
            value,
            save_tensors=_is_bool,
            plain_call=_is_bool,
            undeclared=_is_bool,
            seed=_is_null_or(_is_number),
            time_budget=_is_null_or(_is_number),
            trace=_is_null_or(_is_text),
        ),
    ),
    ("platform", "an object with the text name", lambda value: _has(value, name=_is_text)),
    (
        "platform",
        f"an object with texts as features and host, and the numbers {', '.join(_SIZES)}",
        lambda value: _has_if_any(
            value, features=_is_texts, host=_is_text, **dict.fromkeys(_SIZES, _is_number)
        ),
    ),
    ("time", "a number of seconds", _is_number),
    ("argv", "a list of texts", _is_texts),
    (
        "versions",
        "an object of texts",
        lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    ),
    ("git", "a commit or null", _is_null_or(_is_text)),
    (
        "shard",
        "an object with the numbers index and count and the texts suite_hash and split_hash",
        lambda value: _has(
            value, index=_is_number, count=_is_number, suite_hash=_is_text, split_hash=_is_text
        ),
    ),
)


def _checked(path: Path, info: object) -> dict[str, Any]:
    """Return the object that the file holds, once it obeys every rule."""
    if not isinstance(info, dict):
        kind = type(info).__name__
        raise UsageError(f"{str(path)!r} must hold a JSON object, not a {kind}; {_RESTORE}")
    if info.get("format") not in READABLE:
        formats = " or ".join(map(str, READABLE))
        raise UsageError(
            f"the run folder {str(path.parent)!r} has format {info.get('format')!r}, "
            f"not {formats}; read it with the version of the harness that wrote it"
        )
    for key, rule, obeys in RULES:
        if key in info and obeys(info[key]):
            continue
        if key in info or key not in _OPTIONAL:
            state = f"not {str(info[key])[:60]!r}" if key in info else "but the key is missing"
            raise UsageError(f"{str(path)!r}: {key} must be {rule}, {state}; {_RESTORE}")
    return info
