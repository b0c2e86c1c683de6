"""What a member needs of a problem and a platform, and why it is refused where that is lacking.

A capability that a row does not name is not supported, so that a row written today claims nothing
of an axis that is added tomorrow: a set of values starts as the plain one, and a row that takes
every value says `ANY`. Sizes and ranks are limits: a row that names none has none.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe.spec import Platform, Problem


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why something was refused: a stable code to group by, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True)
class Anything:
    """In place of a set of values: contains every one, those of other packages included."""

    def __contains__(self, value: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"


ANY = Anything()
UNQUANTIZED = frozenset({("model", "model")})


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a member needs. What it takes of an axis is named here; the default is the plain one."""

    features: frozenset[str] = frozenset()  # all of them, of the platform
    dtypes: frozenset[str] | Anything = frozenset({"bf16"})  # keys of DTYPE_BYTES
    # Pairs of keys of FORMATS: (Scheme.weights, Scheme.activations).
    formats: frozenset[tuple[str, str]] | Anything = UNQUANTIZED
    # Rows of `moe.activations` that an experts backend computes; other families do not ask.
    activation_functions: frozenset[str] | Anything = frozenset({"silu"})
    hidden_multiple: int = 1
    shard_multiple: int = 1  # of the intermediate size on every rank
    max_world: int | None = None
    packages: tuple[str, ...] = ()  # importable top-level names
    probe: str | None = None  # "module:function" -> Reason | None, for what only code can tell

    def refusal(self, problem: Problem, platform: Platform) -> Reason | None:
        """The first need that does not hold, or None."""
        for check in (_features, _dtype, _formats, _sizes, _packages):
            reason = check(self, problem, platform)
            if reason is not None:
                return reason
        return None


def experts_refusal(needs: Needs, problem: Problem, platform: Platform) -> Reason | None:
    """`Needs.refusal` for an experts row, which computes the activation function, too."""
    taken = needs.activation_functions
    if isinstance(taken, Anything) or problem.activation in taken:
        return needs.refusal(problem, platform)
    text = f"computes the activation {', '.join(sorted(taken))}, not {problem.activation}"
    return Reason(code="activation_unsupported", text=text)


def _features(needs: Needs, _: Problem, platform: Platform) -> Reason | None:
    missing = sorted(needs.features - platform.features)
    if missing:
        text = f"needs {', '.join(missing)}, which {platform.name} does not have"
        return Reason(code="platform_lacks_feature", text=text)
    return None


def _dtype(needs: Needs, problem: Problem, _: Platform) -> Reason | None:
    if isinstance(needs.dtypes, Anything) or problem.dtype in needs.dtypes:
        return None
    text = f"takes dtype {', '.join(sorted(needs.dtypes))}, not {problem.dtype}"
    return Reason(code="dtype_unsupported", text=text)


def _formats(needs: Needs, problem: Problem, _: Platform) -> Reason | None:
    """Weights first: where no pair has theirs, their activations do not matter."""
    weights, activations = problem.scheme.weights, problem.scheme.activations
    if isinstance(needs.formats, Anything) or (weights, activations) in needs.formats:
        return None
    partners = sorted(a for w, a in needs.formats if w == weights)
    if partners:
        text = f"takes {weights} weights with activation_format {', '.join(partners)}, "
        return Reason(code="activation_format_unsupported", text=f"{text}not {activations}")
    taken = ", ".join(sorted({w for w, _ in needs.formats}))
    text = f"takes weight_format {taken}, not {weights}"
    return Reason(code="weight_format_unsupported", text=text)


def _sizes(needs: Needs, problem: Problem, _: Platform) -> Reason | None:
    if needs.max_world is not None and problem.layout.world_size > needs.max_world:
        text = f"serves at most {needs.max_world} rank(s), not {problem.layout.world_size}"
        return Reason(code="too_many_ranks", text=text)
    if problem.hidden % needs.hidden_multiple:
        text = f"hidden size {problem.hidden} is no multiple of {needs.hidden_multiple}"
        return Reason(code="size_not_multiple", text=text)
    odd = [size for size in problem.shard_sizes if size % needs.shard_multiple]
    if odd:
        text = f"a rank's intermediate size {odd[0]} is no multiple of {needs.shard_multiple}"
        return Reason(code="size_not_multiple", text=text)
    return None


def _packages(needs: Needs, problem: Problem, platform: Platform) -> Reason | None:
    for package in needs.packages:
        if not _installed(package):
            return Reason(code="package_missing", text=f"package {package!r} is not installed")
    if needs.probe is not None:
        probe: Callable[[Problem, Platform], Reason | None] = resolve(needs.probe)
        return probe(problem, platform)
    return None


@cache
def _installed(package: str) -> bool:
    """Searching the path costs .1 ms, and a plan asks for every point."""
    return importlib.util.find_spec(package) is not None


def resolve(target: str):  # type: ignore[no-untyped-def]  # whatever the target is
    """Import `"package.module:Name"` and return what it names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
