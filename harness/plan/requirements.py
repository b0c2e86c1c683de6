"""Check `--require`: the command ends with 75 before anything runs if the machine lacks a word.

A step that tests GPUs and has none would otherwise refuse its points and pass. A word is a platform
(`cuda_sm90`), one of its features (`fp8_mma`), `devices=N`, or a member that some case can use on
this machine (`experts=triton`, `all2all=NAME`, `quant=NAME`).
"""

from __future__ import annotations

import difflib
from itertools import product
from typing import TYPE_CHECKING, Any

from harness.errors import InfrastructureError, UsageError
from harness.matrix.case import MoETestConfig
from harness.plan.refusals import Judge
from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.platforms import PLATFORMS, platform
from moe.quant import QUANT
from moe.spec import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.plan.machine import Machine
    from moe.registry import Registry
    from moe.spec import Platform, Reason

_FAMILIES: dict[str, Registry[Any]] = {"experts": EXPERTS, "all2all": ALL2ALL, "quant": QUANT}
_KEYS = ("devices", *_FAMILIES)
_TRIED = MoETestConfig(m=8, n=256, k=256, num_experts=8, top_k=2, experts="torch_loop")
_LAYOUTS = (_TRIED, _TRIED.replace(dp_size=2, use_ep=True))


def check(words: Sequence[str], machine: Machine) -> None:
    """Raise InfrastructureError that names every word that `machine` does not meet.

    Raises UsageError for an unknown word, on any machine.
    """
    check_words(words, machine.platform)
    for word in words:
        _check_member(word)
    judge = Judge(machine)
    reasons = {word: _unmet(word, machine, judge) for word in words}
    unmet = [f"  {word}: {reason}" for word, reason in reasons.items() if reason]
    if unmet:
        lines = ["this machine does not meet --require:", *unmet, _summary(machine, judge)]
        raise InfrastructureError("\n".join(lines))


def check_words(words: Sequence[str], *chips: Platform) -> None:
    """Raise UsageError for a word that is not a platform, a feature or a key with its value.

    chips: further platforms whose names and features are known. Names of members are not checked:
    they may be of a package that only the machine in question has.
    """
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            known = _platform_words(*chips)
            if word not in known:
                raise UsageError(_unknown(word, word, [*known, *(f"{name}=" for name in _KEYS)]))
        elif key not in _KEYS:
            raise UsageError(_unknown(word, key, _KEYS))
        elif key == "devices" and not (value.isascii() and value.isdecimal() and int(value) >= 1):
            raise UsageError(f"--require {word}: give a number of at least 1, as devices=2")


def _check_member(word: str) -> None:
    key, _, value = word.partition("=")
    if key in _FAMILIES:
        try:
            _FAMILIES[key].row(value)
        except MoEError as error:
            raise UsageError(f"--require {word}: {error}") from error


def _platform_words(*chips: Platform) -> set[str]:
    """Return the names of all platforms, and of these chips, with their features."""
    platforms = [*chips, *(platform(name) for name in PLATFORMS.rows)]
    return {word for chip in platforms for word in (chip.name, *chip.features)}


def _unknown(word: str, part: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(part, known, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return (
        f"--require {word}: no platform, feature or key is called {part!r}{hint} "
        f"(known: {', '.join(sorted(known))})"
    )


def _unmet(word: str, machine: Machine, judge: Judge) -> str | None:
    """Return why a known word does not hold, or None."""
    key, equals, value = word.partition("=")
    if not equals:
        chip = machine.platform
        met = word == chip.name or word in chip.features
        return None if met else f"the platform is {chip.name}"
    if key == "devices":
        return None if machine.devices >= int(value) else f"there are {machine.devices}"
    return unavailable(key, value, judge)


def unavailable(family: str, name: str, judge: Judge) -> str | None:
    """Return why no small case with this member would run on the judge's machine, or None."""
    first: Reason | None = None
    for case in _cases_with(family, name):
        _, reason = judge(case)
        if reason is None:
            return None
        first = first or reason
    return f"{first.code}: {first.text}" if first else "no case can have it"


def _cases_with(family: str, name: str) -> Iterator[MoETestConfig]:
    """Yield small cases with one member, plain ones first, over everything it combines with."""
    # First the members that need least, so that the reason is of what was asked for.
    plain = sorted(EXPERTS, key=lambda row: len(row.needs.features) + len(row.needs.packages))
    experts = [name] if family == "experts" else [row.name for row in plain]
    quants = [name] if family == "quant" else list(QUANT.rows)
    all2all = name if family == "all2all" else "allgather_reducescatter"
    for layout, quant, dtype, row in product(_LAYOUTS, quants, DTYPE_BYTES, experts):
        yield layout.replace(experts=row, quant=quant, dtype=dtype, all2all=all2all)


def _summary(machine: Machine, judge: Judge) -> str:
    chip = machine.platform
    members = (
        f"{family} {', '.join(n for n in table.rows if not unavailable(family, n, judge))}"
        for family, table in _FAMILIES.items()
    )
    return (
        f"it has: {chip.name} ({', '.join(sorted(chip.features))}), devices={machine.devices}; "
        f"{'; '.join(members)}; for reasons: python -m harness doctor"
    )
