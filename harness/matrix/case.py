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
from functools import cached_property
from typing import Any

from harness.errors import CaseError
from harness.matrix.axis import axes_of, axis, file_keys, value_error
from harness.matrix.call_modes import CALL_MODES, EAGER
from harness.matrix.case_id import parse_all
from harness.matrix.features import NOTHING
from moe.layers import COMPOSED, OWN
from moe.layout import Layout
from moe.oracle import AUTO
from moe.quant import QUANT
from moe.spec import DTYPE_BYTES, LayerSpec

MOST_WITH_SHARES = 10  # most experts of a token of which none is less of its row than
SMALLEST_SHARE = 0.15  # by the norms of what the expert adds to the row, and of the row
LEAST_WITH_SHARES = 32  # smallest n and k for which inputs are made so
# With fewer than 64 columns a row's error scatters too much for a tolerance of six sigma.
NO_PADDING = "none"
PADDING = (NO_PADDING, "end", "middle", "all")  # see harness.fixtures.padding_rows
# Distributions of the router logits, see harness.fixtures.logit_rows.
LOGITS = (*("spread", "uniform", "skewed", "hot", "empty", "ties", "negative", "large", "nan"),)
_SIZES = (64, 72, 96, 100, 128, 131, 160, 192, 200, 256, 320, 384, 512, 640, 768, 1024)
_EXPERT_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True, kw_only=True)
class MoETestConfig:
    """One case. Sizes are of the unsharded layer. Each field is declared as an `Axis`."""

    m: int = axis(
        "m", "tokens per DP rank", group="shapes", outputs_agree=True, simplest=(1, 2, 3, 4)
    )
    n: int = axis("n", "intermediate size", group="shapes", simplest=_SIZES)
    k: int = axis("k", "hidden size", group="shapes", simplest=_SIZES)
    num_experts: int = axis("e", "routed experts of the layer", simplest=_EXPERT_COUNTS)
    total_experts: int = axis(
        "of",
        "experts of the layer if the case is some ranks' share, whose router sees its own; 0: all",
        default=0,
        minimum=0,
    )
    top_k: int = axis(
        "topk",
        f"experts that a token is routed to; above {MOST_WITH_SHARES} one of them may be less than "
        f"{SMALLEST_SHARE:g} of a row",
        simplest=(1, 2, 3, 4, 6, 8),
    )
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
        random_values=(0, 0, 1, 2),
    )
    renormalize: bool = axis(
        "renorm",
        "a token's chosen router weights sum to one",
        default=True,
        random_values=(True, True, False),
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
    router_bias: bool = axis(
        "bias",
        "a correction bias is added to the router's scores when it chooses, and does not weigh",
        default=False,
    )
    router_groups: int = axis("groups", "groups of experts, from which some are chosen", default=1)
    chosen_groups: int = axis("chosen_groups", "groups whose experts can be chosen", default=1)
    router_scale: float = axis("scale", "factor of the router's weights", default=1.0)
    logits: str = axis(
        "logits",
        "how router logits are distributed; `nan`: some rows hold a NaN",
        default="spread",
        choices=LOGITS,
    )
    logits_dtype: str = axis(
        "logits_dtype",
        "dtype of the router logits; `model`: the layer's",
        default="model",
        choices=("model", "bf16", "f32"),
    )
    weights_input: bool = axis(
        "weights_input",
        "router weights multiply the input of the experts, not their output; needs topk 1",
        default=False,
    )
    gate: bool = axis(
        "gate",
        "the composed layer computes its router logits from the hidden states",
        default=False,
    )
    padding: str = axis(
        "padding",
        "rows that are padding: their topk_ids are -1, and their output is undefined",
        default=NO_PADDING,
        choices=PADDING,
    )
    expert_bias: bool = axis(
        "expert_bias",
        "both products of the routed experts have biases",
        default=False,
        random_values=(False, False, True),
    )
    shared_width: int = axis(
        "sharedn",
        "intermediate size of all shared experts together; 0: that of as many routed experts",
        default=0,
        minimum=0,
    )
    shared_quant: str = axis(
        "sharedquant",
        "quantization method of shared experts that are not fused",
        default="none",
        family="quant",
        random_values=("none",),
    )
    shared_gate: bool = axis(
        "sharedgate",
        "the shared experts' output is multiplied by a gate, the sigmoid of a product",
        default=False,
        random_values=(False,),
    )
    shared_fused: bool = axis(
        "fused",
        "the shared experts are further experts of the experts backend",
        default=False,
        outputs_agree=True,
        random_values=(False,),
    )
    zero_experts: int = axis(
        "zero",
        "experts that return the token itself; the router chooses them by the ids after the routed",
        default=0,
        minimum=0,
        random_values=(0,),
    )
    roundup: int = axis(
        "roundup",
        "the quantization method pads the hidden size and each shard to a multiple of this",
        default=1,
        outputs_agree=True,
        simplest=(1,),
        random_values=(1, 1, 1, 64),
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
    missing: str = axis(
        "missing",
        "what the real layer does and no case can say yet: such a case is refused",
        default=NOTHING,
    )

    def __post_init__(self) -> None:
        texts = [value_error(axis, getattr(self, axis.name)) for axis in AXES.values()]
        errors = [text for text in texts if text is not None]
        if errors:
            raise CaseError("; ".join(errors))
        for name in _QUANT_AXES:  # an alias is read, and its row's name is written
            object.__setattr__(self, name, QUANT.canonical(getattr(self, name)))

    @cached_property
    def id(self) -> str:
        """The case id, from which `from_id` restores the case."""
        tokens = []
        for field_axis in AXES.values():
            value = getattr(self, field_axis.name)
            if value == field_axis.default:
                continue
            if isinstance(value, bool):
                tokens.append(field_axis.token if value else f"no_{field_axis.token}")
            else:
                tokens.append(f"{field_axis.token}:{value}")
        return "-".join(tokens)

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

    @property
    def layout(self) -> Layout:
        return Layout(
            dp_size=self.dp_size,
            tp_size=self.tp_size,
            use_ep=self.use_ep,
            sequence_parallel=self.sequence_parallel,
        )

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

    @property
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
            padding=self.padding != NO_PADDING,
            pads=QUANT.row(self.quant).pads and self.layer == COMPOSED,
            roundup=self.roundup,
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of tokens of each DP rank.

        `even`: m on every rank. `ragged`: m on the first, then fewer and fewer, at least one.
        `idle`: m, but 0 on the last DP rank if there are several.
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
    """Return the id, shortened if too long for a file name; different ids stay different."""
    if len(case_id) <= 180:
        return case_id
    return f"{case_id[:160]}.{hashlib.sha256(case_id.encode()).hexdigest()[:12]}"


AXES = axes_of(MoETestConfig)
FILE_KEYS = file_keys(AXES)
TOKEN_COUNTS = AXES["tokens"].choices
_QUANT_AXES = tuple(axis.name for axis in AXES.values() if axis.family == "quant")
_BY_TOKEN = {axis.token: axis for axis in AXES.values()}
