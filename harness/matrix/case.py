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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import CaseError
from harness.matrix.axis import axes_of, axis, file_keys, value_error
from harness.matrix.call_modes import CALL_MODES, EAGER
from moe.layers import COMPOSED, OWN
from moe.layout import Layout
from moe.oracle import AUTO
from moe.quant import QUANT
from moe.spec import DTYPE_BYTES, Problem

_INT = re.compile(r"(0|[1-9][0-9]*)\Z")
# Below 64 columns a row's distance scatters so much that its margin is no longer six sigma.
_SIZES = (64, 72, 96, 100, 128, 131, 160, 192, 200, 256, 320, 384, 512, 640, 768, 1024)
_EXPERT_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True, kw_only=True)
class MoETestConfig:
    """One case. Sizes are those of the whole layer. Each field is declared as an `Axis`."""

    m: int = axis(
        "m", "tokens per DP rank", group="shapes", outputs_agree=True, simplest=(1, 2, 3, 4)
    )
    n: int = axis("n", "intermediate size", group="shapes", simplest=_SIZES)
    k: int = axis("k", "hidden size", group="shapes", simplest=_SIZES)
    num_experts: int = axis("e", "routed experts of the layer", simplest=_EXPERT_COUNTS)
    top_k: int = axis("topk", "experts that a token is routed to", simplest=(1, 2, 3, 4, 6, 8))
    experts: str = axis(
        "experts",
        "experts backend: a name, `auto`, 'pkg.mod:Class', or `own` (a layer's)",
        family="experts",
        extra_names=(AUTO, OWN),
        outputs_agree=True,
    )
    all2all: str = axis(
        "a2a",
        "all2all backend: a name or 'pkg.mod:Class'",
        default="allgather_reducescatter",
        family="all2all",
        outputs_agree=True,
        simplest=(),
    )
    quant: str = axis(
        "quant",
        "quantization method: a name or 'pkg.mod:Class'",
        default="none",
        family="quant",
    )
    dtype: str = axis(
        "dtype",
        "dtype of activations, of weights before quantization, and of outputs",
        default="bf16",
        choices=tuple(DTYPE_BYTES),
        simplest=("bf16",),
    )
    dp_size: int = axis(
        "dp", "data-parallel size", default=1, group="layouts", outputs_agree=True, simplest=()
    )
    tp_size: int = axis(
        "tp",
        "tensor-parallel size; world size = dp * tp",
        default=1,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    use_ep: bool = axis(
        "ep",
        "spread the experts over all ranks",
        default=False,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    sequence_parallel: bool = axis(
        "sp",
        "split tokens over the TP ranks; needs ep and tp > 1",
        default=False,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    shared_experts: int = axis(
        "shared",
        "always-on experts of the routed experts' size",
        default=0,
        minimum=0,
        simplest=(0, 1, 2),
        drawn=(0, 0, 1, 2),
    )
    renormalize: bool = axis(
        "renorm",
        "a token's chosen router weights sum to one",
        default=True,
        drawn=(True, True, False),
    )
    router: str = axis(
        "router",
        "router: a name or 'pkg.mod:Class'",
        default="softmax",
        family="router",
    )
    activation: str = axis(
        "act",
        "activation function of the gate: a name or 'pkg.mod:Class'",
        default="silu",
        family="activation",
    )
    tokens: str = axis(
        "tokens",
        "how tokens are spread over DP ranks",
        default="even",
        choices=("even", "ragged", "idle"),  # see `counts`
        outputs_agree=True,
    )
    seed: int = axis("seed", "seed of the inputs and weights", default=0, minimum=0)
    exact: bool = axis(
        "exact", "inputs whose sums are exact: outputs compared bit for bit", default=False
    )
    call: str = axis(
        "call",
        "call mode: how the layer is called, whatever it is",
        default=EAGER,
        choices=tuple(CALL_MODES),
        outputs_agree=True,
    )
    layer: str = axis(
        "layer",
        f"whole layer: 'pkg.mod:Class' with its own members, which goes with `experts: {OWN}`",
        default=COMPOSED,
        family="layer",
        simplest=(),
    )

    def __post_init__(self) -> None:
        errors = [value_error(one, getattr(self, one.name)) for one in AXES.values()]
        problems = [text for text in errors if text is not None]
        if problems:
            raise CaseError("; ".join(problems))

    @cached_property
    def id(self) -> str:
        """Self-describing and reversible; see the module's first lines."""
        tokens = []
        for one in AXES.values():
            value = getattr(self, one.name)
            if value == one.default:
                continue
            if isinstance(value, bool):
                tokens.append(one.token if value else f"no_{one.token}")
            else:
                tokens.append(f"{one.token}:{value}")
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
        missing = [a.token for a in AXES.values() if a.required and a.name not in values]
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
    def under_test(self) -> str:
        """What computes the experts: a backend's name, or the layer's that has its own."""
        return self.experts if self.layer == COMPOSED else self.layer

    @property
    def world_size(self) -> int:
        return self.layout.world_size

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


AXES = axes_of(MoETestConfig)
FILE_KEYS = file_keys(AXES)
TOKEN_COUNTS = AXES["tokens"].choices
_BY_TOKEN = {one.token: one for one in AXES.values()}


def _parse(token: str) -> tuple[str, Any]:
    """One token as (field name, value)."""
    name, colon, text = token.partition(":")
    negated = not colon and name.startswith("no_")
    one = _BY_TOKEN.get(name.removeprefix("no_") if negated else name)
    if one is None:
        close = difflib.get_close_matches(name, _BY_TOKEN, n=1)
        hint = f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(_BY_TOKEN)})"
        raise CaseError(f"token {token!r}: no field is called {name!r}{hint}")
    if one.kind == "bool":
        if colon:
            raise CaseError(f"token {token!r}: write {name!r} or 'no_{name}'")
        return one.name, not negated
    if not colon or negated:
        raise CaseError(f"token {token!r}: write '{name.removeprefix('no_')}:VALUE'")
    if one.kind != "int":
        return one.name, text
    if not _INT.match(text):
        raise CaseError(f"token {token!r}: {text!r} is no whole number")
    return one.name, int(text)
