"""What a member needs of a problem and a platform, and why it is refused where that is lacking.

A capability that a row does not name is not supported, so that a row written today claims nothing
of an axis that is added tomorrow: a set of values starts as the plain one, and a row that takes
every value says `ANY`. Sizes and ranks are limits: a row that names none has none.

Each need says which fields of the problem it reads, so that a plan asks once for equal values.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from moe.spec import Platform, Problem

F = TypeVar("F", bound=Callable[..., object])
_READS = "reads"  # the attribute in which a function has what it reads
_EXPERTS_ONLY = ("activation_functions",)  # fields of Needs that other families do not ask for


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why something was refused: a stable code to group by, and a sentence for people."""

    code: str
    text: str


def reads(*fields: str) -> Callable[[F], F]:
    """Declare the fields of the problem that a function reads: a need, a probe, an estimate.

    A property such as `shard_sizes` is named by the fields that it is made from.
    """

    def declared(function: F) -> F:
        function.__dict__[_READS] = frozenset(fields)
        return function

    return declared


def fields_read(function: Callable[..., object]) -> frozenset[str] | None:
    """Return what `reads` declares of a function; None, any field, where it is not declared."""
    declared: frozenset[str] | None = getattr(function, _READS, None)
    return declared


@dataclass(frozen=True, kw_only=True)
class Need:
    """One way in which a row can refuse. reads: fields of the problem; None: any of them."""

    reads: frozenset[str] | None
    refuse: Callable[[Problem], Reason | None]

    @classmethod
    def of(cls, function: Callable[..., Reason | None], *bound: Any) -> Need:
        """Return the need that calls `function(*bound, problem)` and reads what that declares."""
        return cls(reads=fields_read(function), refuse=partial(function, *bound))


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
    # "module:function" (problem, platform) -> Reason | None, for what only code can tell. It says
    # by `reads` what it reads of the problem; without, it is asked again for any other problem.
    probe: str | None = None

    def asked(
        self, platform: Platform, *, leave_out: Container[str] = _EXPERTS_ONLY
    ) -> tuple[Need, ...]:
        """Return the needs that can refuse a problem on this platform, in their order.

        leave_out: fields of Needs that are not asked for. The probe is not loaded where features
        or packages are lacking.
        """
        needs = [
            Need.of(check, self, platform)
            for name, (nothing, check) in _CHECKS.items()
            if name not in leave_out and getattr(self, name) != nothing
        ]
        if self.probe is not None and self.features <= platform.features and self._installed():
            needs.append(_probe(self.probe, platform))
        return tuple(needs)

    def _installed(self) -> bool:
        return all(map(_installed, self.packages))

    def refusal(self, problem: Problem, platform: Platform) -> Reason | None:
        """The first need that does not hold, or None."""
        return first_refusal(self.asked(platform), problem)


def first_refusal(needs: Iterable[Need], problem: Problem) -> Reason | None:
    """Return the reason of the first need that does not hold, or None."""
    for need in needs:
        reason = need.refuse(problem)
        if reason is not None:
            return reason
    return None


def experts_refusal(needs: Needs, problem: Problem, platform: Platform) -> Reason | None:
    """`Needs.refusal` for an experts row, which computes the activation function, too."""
    return first_refusal(needs.asked(platform, leave_out=()), problem)


@reads("activation")
def _activation(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
    taken = needs.activation_functions
    if isinstance(taken, Anything) or problem.activation in taken:
        return None
    text = f"computes the activation {', '.join(sorted(taken))}, not {problem.activation}"
    return Reason(code="activation_unsupported", text=text)


@reads()
def _features(needs: Needs, platform: Platform, _: Problem) -> Reason | None:
    missing = sorted(needs.features - platform.features)
    if missing:
        text = f"needs {', '.join(missing)}, which {platform.name} does not have"
        return Reason(code="platform_lacks_feature", text=text)
    return None


@reads("dtype")
def _dtype(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
    if isinstance(needs.dtypes, Anything) or problem.dtype in needs.dtypes:
        return None
    text = f"takes dtype {', '.join(sorted(needs.dtypes))}, not {problem.dtype}"
    return Reason(code="dtype_unsupported", text=text)


@reads("scheme")
def _formats(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
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


@reads("layout")
def _world(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
    if needs.max_world is None or problem.layout.world_size <= needs.max_world:
        return None
    text = f"serves at most {needs.max_world} rank(s), not {problem.layout.world_size}"
    return Reason(code="too_many_ranks", text=text)


@reads("hidden")
def _hidden(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
    if problem.hidden % needs.hidden_multiple == 0:
        return None
    text = f"hidden size {problem.hidden} is no multiple of {needs.hidden_multiple}"
    return Reason(code="size_not_multiple", text=text)


@reads("intermediate", "layout")
def _shard(needs: Needs, _: Platform, problem: Problem) -> Reason | None:
    odd = [size for size in problem.shard_sizes if size % needs.shard_multiple]
    if not odd:
        return None
    text = f"a rank's intermediate size {odd[0]} is no multiple of {needs.shard_multiple}"
    return Reason(code="size_not_multiple", text=text)


@reads()
def _packages(needs: Needs, _: Platform, __: Problem) -> Reason | None:
    for package in needs.packages:
        if not _installed(package):
            return Reason(code="package_missing", text=f"package {package!r} is not installed")
    return None


def _probe(target: str, platform: Platform) -> Need:
    """Return the need of a probe, which is loaded when it is asked for."""
    function = resolve(target)
    return Need(reads=fields_read(function), refuse=lambda problem: function(problem, platform))


# Field of Needs, in the order in which they are asked: the value that asks nothing, and the check.
_CHECKS: dict[str, tuple[object, Callable[[Needs, Platform, Problem], Reason | None]]] = {
    "activation_functions": (ANY, _activation),
    "features": (frozenset(), _features),
    "dtypes": (ANY, _dtype),
    "formats": (ANY, _formats),
    "max_world": (None, _world),
    "hidden_multiple": (1, _hidden),
    "shard_multiple": (1, _shard),
    "packages": ((), _packages),
}


@cache
def _installed(package: str) -> bool:
    """Searching the path costs .1 ms, and a plan asks for every point."""
    return importlib.util.find_spec(package) is not None


def resolve(target: str):  # type: ignore[no-untyped-def]  # whatever the target is
    """Import `"package.module:Name"` and return what it names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
