"""`MoETestConfig`: one frozen point of the matrix with its seed, and its id.

An id is a row of tokens joined by `-`: `m:32-n:512-k:512-e:8-topk:2-experts:triton-tp:2-ep`.
Fields at their default are left out, so that ids survive new axes; a changed default is a new
format. Every character is from `[A-Za-z0-9._:-]`, so an id needs no quotes in a shell or after
`pytest -k`, and `MoETestConfig.from_id(case.id) == case` always.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import CaseError
from moe.quant import QUANT
from moe.spec import DTYPE_BYTES, Layout, Problem

TOKEN_COUNTS = ("even", "ragged", "idle")  # see `MoETestConfig.counts`
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:]*\Z")
_INT = re.compile(r"(0|[1-9][0-9]*)\Z")


def _token(name: str, **options: Any) -> Any:
    """A field with the name that it has in ids."""
    return field(metadata={"token": name}, **options)


@dataclass(frozen=True, kw_only=True)
class MoETestConfig:
    """One case. Sizes are those of the whole layer; `m` counts tokens per DP rank."""

    m: int = _token("m")  # tokens per DP rank
    n: int = _token("n")  # intermediate size
    k: int = _token("k")  # hidden size
    num_experts: int = _token("e")
    top_k: int = _token("topk")
    experts: str = _token("experts")  # experts backend: a row of `moe.experts`, or "pkg.mod:Class"
    all2all: str = _token("a2a", default="allgather_reducescatter")  # a row of `moe.all2all`
    quant: str = _token("quant", default="none")  # a row of `moe.quant`
    dtype: str = _token("dtype", default="bf16")  # a key of moe.spec.DTYPE_BYTES
    dp_size: int = _token("dp", default=1)
    tp_size: int = _token("tp", default=1)
    use_ep: bool = _token("ep", default=False)
    sequence_parallel: bool = _token("sp", default=False)
    shared_experts: int = _token("shared", default=0)  # always-on experts of the routed size
    renormalize: bool = _token("renorm", default=True)  # chosen router weights sum to one
    router: str = _token("router", default="softmax")  # a row of `moe.routers`
    activation: str = _token("act", default="silu")  # a row of `moe.activations`
    tokens: str = _token("tokens", default="even")  # one of TOKEN_COUNTS
    seed: int = _token("seed", default=0)
    exact: bool = _token("exact", default=False)  # inputs whose sums are exact, see exact.py

    def __post_init__(self) -> None:
        problems = [text for f in dataclasses.fields(self) if (text := self._complaint(f))]
        if problems:
            raise CaseError("; ".join(problems))

    def _complaint(self, f: dataclasses.Field[Any]) -> str | None:
        return complaint(f.name, getattr(self, f.name))

    @cached_property
    def id(self) -> str:
        """Self-describing and reversible; see the module's first lines."""
        tokens = []
        for f in dataclasses.fields(self):
            value, name = getattr(self, f.name), f.metadata["token"]
            if value == f.default:
                continue
            if isinstance(value, bool):
                tokens.append(name if value else f"no_{name}")
            else:
                tokens.append(f"{name}:{value}")
        return "-".join(tokens)

    @classmethod
    def from_id(cls, text: str) -> MoETestConfig:
        """The case that has this id. Raises CaseError, which names each bad token."""
        values: dict[str, Any] = {}
        problems = []
        for token in text.strip().split("-"):
            try:
                name, value = _parse(token)
            except CaseError as error:
                problems.append(str(error))
                continue
            if name in values:
                problems.append(f"token {token!r}: {name} is given twice")
            values[name] = value
        required = [f for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [f.metadata["token"] for f in required if f.name not in values]
        if missing and not problems:
            problems.append(f"lacks {', '.join(missing)}")
        if problems:
            raise CaseError(f"case id {text!r}: {'; '.join(problems)}")
        return cls(**values)

    @property
    def layout(self) -> Layout:
        return Layout(
            dp_size=self.dp_size,
            tp_size=self.tp_size,
            use_ep=self.use_ep,
            sequence_parallel=self.sequence_parallel,
        )

    @property
    def world_size(self) -> int:
        return self.dp_size * self.tp_size

    @property
    def problem(self) -> Problem:
        """The same as the stack under test sees it."""
        return Problem(
            m=self.m,
            hidden=self.k,
            intermediate=self.n,
            num_experts=self.num_experts,
            top_k=self.top_k,
            dtype=self.dtype,
            scheme=QUANT.row(self.quant).scheme,
            layout=self.layout,
            shared_experts=self.shared_experts,
            renormalize=self.renormalize,
            activation=self.activation,
            router=self.router,
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each DP rank.

        `even`: m everywhere. `ragged`: m, then ever fewer, at least one. `idle`: m everywhere
        but on the last DP rank, which has none (with one DP rank: m).
        """
        ranks = range(self.dp_size)
        if self.tokens == "ragged":
            return tuple(max(1, self.m - r * max(1, self.m // 3)) for r in ranks)
        if self.tokens == "idle" and self.dp_size > 1:
            return (*([self.m] * (self.dp_size - 1)), 0)
        return tuple(self.m for _ in ranks)

    def replace(self, **changes: Any) -> MoETestConfig:
        return dataclasses.replace(self, **changes)


def short_name(case_id: str) -> str:
    """The id, shortened where a file system would refuse it as a name; different ids stay so."""
    if len(case_id) <= 180:
        return case_id
    return f"{case_id[:160]}.{hashlib.sha256(case_id.encode()).hexdigest()[:12]}"


_FIELDS = {f.metadata["token"]: f for f in dataclasses.fields(MoETestConfig)}
_CHOICES = {"dtype": tuple(DTYPE_BYTES), "tokens": TOKEN_COUNTS}
_MAY_BE_ZERO = frozenset({"seed", "shared_experts"})


def complaint(name: str, value: object) -> str | None:
    """What is wrong with `value` for the field `name`, or None. Config files use it too."""
    kind = MoETestConfig.__annotations__[name]
    if type(value).__name__ != kind:
        return f"{name} must be {kind}, not {value!r}"
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        least = 0 if name in _MAY_BE_ZERO else 1
        return None if value >= least else f"{name} must be at least {least}, not {value}"
    if name in _CHOICES:
        allowed = _CHOICES[name]
        return (
            None
            if value in allowed
            else f"{name} must be one of {', '.join(allowed)}, not {value!r}"
        )
    return (
        None
        if _NAME.match(str(value))
        else f"{name} must be a name of [A-Za-z0-9_.:], not {value!r}"
    )


def _parse(token: str) -> tuple[str, Any]:
    """One token as (field name, value)."""
    name, colon, text = token.partition(":")
    negated = not colon and name.startswith("no_")
    f = _FIELDS.get(name.removeprefix("no_") if negated else name)
    if f is None:
        close = difflib.get_close_matches(name, _FIELDS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(_FIELDS)})"
        raise CaseError(f"token {token!r}: no field is called {name!r}{hint}")
    if f.type == "bool":
        if colon:
            raise CaseError(f"token {token!r}: write {name!r} or 'no_{name}'")
        return f.name, not negated
    if not colon or negated:
        raise CaseError(f"token {token!r}: write '{name.removeprefix('no_')}:VALUE'")
    if f.type != "int":
        return f.name, text
    if not _INT.match(text):
        raise CaseError(f"token {token!r}: {text!r} is no whole number")
    return f.name, int(text)
