"""`MoETestConfig`: one frozen point of the matrix with its seed, and its id.

An id is a row of tokens joined by `-`: `m:32-n:512-k:512-e:8-topk:2-experts:triton-tp:2-ep`.
Fields at their default are left out, so that ids survive new axes; a changed default is a new
format. Every character is from `[A-Za-z0-9._:-]`, so an id needs no quotes in a shell or after
`pytest -k`, and `MoETestConfig.from_id(case.id) == case` always.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from operator import attrgetter
from typing import Any

from harness.errors import CaseError
from harness.matrix.axis import axes_of, axis, file_keys, value_error
from harness.matrix.call_modes import CALL_MODES, EAGER, RANDOM_MODES
from harness.matrix.case_axes import NO_PADDING, NO_TOKENS, FeatureAxes
from harness.matrix.case_id import parse_all
from harness.matrix.features import NOTHING
from harness.matrix.main_axes import LEAST_WITH_SHARES, MOST_WITH_SHARES
from harness.matrix.skews import BEFORE_CALLS, BEFORE_COLLECTIVES, NO_SKEW, SKEWS
from moe.layers import COMPOSED, OWN
from moe.layout import Layout
from moe.quant import QUANT
from moe.spec import LayerSpec

MADE = "made"  # the value of `trace` in a case whose inputs are made, not recorded


@dataclass(frozen=True, kw_only=True)
class MoETestConfig(FeatureAxes):
    """One case. Sizes are of the unsharded layer. Each field is declared as an `Axis`."""

    skew: str = axis(
        "skew",
        "one rank after the other is late: before each call, or before each of its collectives",
        default=NO_SKEW,
        choices=SKEWS,
        outputs_agree=True,
        random_values=(*[NO_SKEW] * 8, BEFORE_CALLS, BEFORE_COLLECTIVES),
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
        random_values=RANDOM_MODES,
        outputs_agree=True,
    )
    layer: str = axis(
        "layer",
        f"whole layer: 'pkg.mod:Class' with its own members, which goes with `experts: {OWN}`",
        default=COMPOSED,
        family="layer",
        simplest=(),
    )
    missing: str = axis(
        "missing",
        "what the real layer does and no case can say yet: such a case is refused",
        default=NOTHING,
    )
    trace: str = axis(
        "trace",
        "recorded workload whose tokens, logits and bias the case has, by a digest; see --trace",
        default=MADE,
        simplest=(),
        random_values=(MADE,),
    )

    def __post_init__(self) -> None:
        given = [(n, value) for n, value in vars(self).items() if value is not _DEFAULTS[n]]
        errors = [text for item in given if (text := _value_error(*item)) is not None]
        if errors:
            raise CaseError("; ".join(errors))
        for name in _QUANT_AXES:  # an alias is read, and its row's name is written
            object.__setattr__(self, name, QUANT.canonical(getattr(self, name)))

    @cached_property
    def id(self) -> str:
        """The case id, from which `from_id` restores the case."""
        return "".join(token_text(name, getattr(self, name)) for name in AXES)[1:]

    @classmethod
    def of_checked(cls, fields: dict[str, Any]) -> MoETestConfig:
        """Return the case with these values of all axes, which other cases had: all are valid."""
        case = cls.__new__(cls)
        case.__dict__.update(fields)
        return case

    @classmethod
    def from_id(cls, text: str) -> MoETestConfig:
        """Return the case with this id. Raises CaseError, which names each invalid token."""
        values, errors = parse_all(text.strip().split("-"), _BY_TOKEN)
        missing = [a.token for a in AXES.values() if a.required and a.name not in values]
        if missing and not errors:
            errors.append(f"lacks {', '.join(missing)}")
        if errors:
            raise CaseError(f"case id {text!r}: {'; '.join(errors)}")
        try:
            return cls(**values)
        except CaseError as error:
            raise CaseError(f"case id {text!r}: {error}") from error

    @cached_property
    def expert_case(self) -> MoETestConfig:
        """The case as its routed experts see it: with the latent width, if any, as hidden size."""
        return self.replace(k=self.latent, latent=0) if self.latent else self

    @cached_property
    def layout(self) -> Layout:
        """How ranks share the work: `replace(**vars(layout))` of a case sets another."""
        return _layout_of(*_layout_values(self))

    @property
    def router_experts(self) -> int:
        """How many experts the router chooses from: each token has a logit for each."""
        return self.num_experts + self.zero_experts

    @property
    def under_test(self) -> str:
        """The name of the code under test: the experts backend, or a layer with its own experts."""
        return self.experts if self.layer == COMPOSED else self.layer

    @property
    def subject_option(self) -> str:
        """The option of the command line that names the code under test."""
        return f"--{'experts' if self.layer == COMPOSED else 'layer'} {self.under_test}"

    @property
    def world_size(self) -> int:
        return self.layout.world_size

    @property
    def has_small_shares(self) -> bool:
        """Whether an expert's part of a row may be too small for its mistakes to show."""
        is_tiny = min(self.n, self.k) < LEAST_WITH_SHARES
        return self.top_k > MOST_WITH_SHARES or (self.top_k > 1 and is_tiny)

    @cached_property
    def layer_spec(self) -> LayerSpec:
        """The case as the stack under test sees it."""
        return LayerSpec(
            m=self.m,
            hidden=self.k,
            intermediate=self.n,
            num_experts=self.num_experts,
            top_k=self.top_k,
            dtype=self.dtype,
            scheme=QUANT.row(self.quant).scheme,
            layout=self.layout,
            shared_experts=self.shared_experts,
            shared_width=self.shared_width,
            shared_scheme=QUANT.row(self.shared_quant).scheme,
            shared_gate=self.shared_gate,
            shared_fused=self.shared_fused,
            zero_experts=self.zero_experts,
            renormalize=self.renormalize,
            activation=self.activation,
            router=self.router,
            router_bias=self.router_bias,
            expert_bias=self.expert_bias,
            router_groups=self.router_groups,
            chosen_groups=self.chosen_groups,
            router_scale=self.router_scale,
            logits_dtype=self.logits_dtype,
            weights_input=self.weights_input,
            gate=self.gate,
            padding=self.padding != NO_PADDING or CALL_MODES[self.call].adds_padding,
            adapters=self.adapters,
            lora_rank=self.lora_rank,
            latent=self.latent,
            eplb=self.eplb,
            redundant=self.redundant,
            eplb_window=self.eplb_window,
            pads=QUANT.row(self.quant).pads and self.layer == COMPOSED,
            roundup=self.roundup,
            chunk=self.chunk,
            capacity=self.capacity,
            tactic=self.tactic,
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of tokens of each DP rank.

        `even`: m on every rank. `ragged`: m on the first, then fewer and fewer, at least one.
        `idle`: m, but 0 on the last DP rank if there are several. `alone`: m on the last DP rank,
        0 on all others. `none`: as `even`, with one more call in which no rank has any token.
        """
        ranks = range(self.dp_size)
        if self.tokens == "ragged":
            return tuple(max(1, self.m - r * max(1, self.m // 3)) for r in ranks)
        if self.tokens == "idle" and self.dp_size > 1:
            return (*([self.m] * (self.dp_size - 1)), 0)
        if self.tokens == "alone":
            return (*([0] * (self.dp_size - 1)), self.m)
        return tuple(self.m for _ in ranks)

    def replace(self, **changes: Any) -> MoETestConfig:
        return dataclasses.replace(self, **changes)


@cache
def _layout_of(*values: Any) -> Layout:
    return Layout(**dict(zip(LAYOUT_AXES, values, strict=True)))


def token_text(name: str, value: object) -> str:
    """Return what an id says of one axis, with `-` before it; nothing of a default."""
    if value == _DEFAULTS[name]:
        return ""
    token = AXES[name].token
    if isinstance(value, bool):
        return f"-{token}" if value else f"-no_{token}"
    return f"-{token}:{value}"


def _value_error(name: str, value: object) -> str | None:
    """Return what is wrong with the value of an axis, or None; the same for equal values."""
    try:
        return _known_error(name, value)
    except TypeError:  # a value without a hash, such as a list, is of no axis
        return value_error(AXES[name], value)


@lru_cache(maxsize=1 << 14, typed=True)  # 1, 1.0 and true are equal
def _known_error(name: str, value: object) -> str | None:
    return value_error(AXES[name], value)


def short_name(case_id: str) -> str:
    """Return the id, shortened if too long for a file name; different ids stay different."""
    if len(case_id) <= 180:
        return case_id
    return f"{case_id[:160]}.{hashlib.sha256(case_id.encode()).hexdigest()[:12]}"


AXES = axes_of(MoETestConfig)
_DEFAULTS = {axis.name: axis.default for axis in AXES.values()}
FILE_KEYS = file_keys(AXES)
TOKEN_COUNTS = AXES["tokens"].choices
ONE_RANK_TOKENS = ("even", NO_TOKENS)  # those that differ where there is one DP rank
LAYOUT_AXES = tuple(field.name for field in dataclasses.fields(Layout))
_layout_values = attrgetter(*LAYOUT_AXES)
_QUANT_AXES = tuple(axis.name for axis in AXES.values() if axis.family == "quant")
_BY_TOKEN = {axis.token: axis for axis in AXES.values()}
