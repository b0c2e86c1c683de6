"""The torch-free vocabulary: layouts, problems, formats, needs, numerics, reasons.

Planning, listing and CI generation import this and the member tables, never torch. A row is
matched on features and formats, never on another row's name, so that a new member of one
family needs no change in the others.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "f32": 4}  # activation dtypes of a layer -> bytes an element
BLOCK = 128  # side of a weight block and length of an activation block in `fp8_block`


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why something was refused: a stable code to group by, and a sentence for people."""

    code: str
    text: str


def chunk(total: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` contiguous pieces of `range(total)`; the first ones are longer.

    Sizes differ by at most one; a piece is empty where there are more parts than items.
    """
    base, extra = divmod(total, parts)
    start = index * base + min(index, extra)
    return range(start, start + base + (index < extra))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How ranks share the work. `rank = dp_rank * tp_size + tp_rank`."""

    dp_size: int = 1
    tp_size: int = 1
    use_ep: bool = False  # experts spread over all ranks; without it the intermediate size is
    sequence_parallel: bool = False  # each DP rank's tokens are split over its TP ranks

    @property
    def world_size(self) -> int:
        return self.dp_size * self.tp_size

    def dp_rank(self, rank: int) -> int:
        return rank // self.tp_size

    def tp_rank(self, rank: int) -> int:
        return rank % self.tp_size

    def experts_of(self, rank: int, num_experts: int) -> range:
        """Global expert ids that live on `rank` (uneven where ranks do not divide them)."""
        return chunk(num_experts, self.world_size, rank) if self.use_ep else range(num_experts)

    def intermediate_of(self, rank: int, intermediate: int) -> range:
        """Columns of the intermediate size that live on `rank`."""
        if self.use_ep:
            return range(intermediate)
        return chunk(intermediate, self.world_size, rank)

    def tokens_of(self, rank: int, counts: tuple[int, ...]) -> range:
        """Rows of its DP rank's tokens that `rank` holds; `counts` are tokens per DP rank."""
        count = counts[self.dp_rank(rank)]
        if self.sequence_parallel:
            return chunk(count, self.tp_size, self.tp_rank(rank))
        return range(count)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How numbers are stored: on which grid, and what shares one scale.

    The scale is `amax * (1 / top)` in float32, and a code is `value / scale` on the grid.
    """

    grid: str  # model (the layer's dtype, unscaled), e4m3, int8
    per: str = "none"  # weights: tensor, channel, block; activations: tensor, token, group
    static: bool = False  # the scale was calibrated before, and values beyond it saturate

    @property
    def top(self) -> float:
        """The largest code."""
        return {"e4m3": 448.0, "int8": 127.0}[self.grid]


FORMATS = {
    "model": Format(grid="model"),
    "fp8_tensor": Format(grid="e4m3", per="tensor"),
    "fp8_block": Format(grid="e4m3", per="block"),
    "int8_channel": Format(grid="int8", per="channel"),
    "fp8_static": Format(grid="e4m3", per="tensor", static=True),
    "fp8_dynamic": Format(grid="e4m3", per="tensor"),
    "fp8_group": Format(grid="e4m3", per="group"),
    "int8_token": Format(grid="int8", per="token"),
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What a quant method stores and sends: keys of FORMATS, on which experts rows are matched."""

    weights: str
    activations: str
    weight_bytes: int | None = None  # bytes a weight element takes; None: the layer dtype's


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a layer is asked to compute. Sizes are global; `m` counts tokens per DP rank."""

    m: int
    hidden: int  # K
    intermediate: int  # N
    num_experts: int  # E
    top_k: int
    dtype: str = "bf16"  # a key of DTYPE_BYTES: activations, weights before quantization, output
    scheme: Scheme = Scheme(weights="model", activations="model")
    layout: Layout = Layout()
    shared_experts: int = 0  # how many always-on experts of the routed experts' size
    renormalize: bool = True  # divide the chosen router weights by their sum
    activation: str = "silu"  # of the gate: a row of `moe.activations`
    router: str = "softmax"  # a row of `moe.routers`

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """The intermediate size on each rank."""
        world = range(self.layout.world_size)
        return tuple(len(self.layout.intermediate_of(r, self.intermediate)) for r in world)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One kind of chip, as a list of features; see `moe.platforms`."""

    name: str
    device: str  # torch device type: `cpu` or `cuda` (ROCm's too)
    features: frozenset[str]
    interpreted: bool = False  # Triton kernels run in the interpreter: right, but slow


BF16_LOSS = 2.0**-8  # no sum is kept in less than bf16, of which this is a step
FLOAT32_LOSS = 2.0**-22  # the most that an addition in float32 is taken to lose, in any order


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """What a member declares about its rounding; the reference rounds in the same places.

    Each of the dtype fields names what a value is rounded to at that point: `f32`, or `model`
    for the layer's dtype. Raises ValueError for what the reference could not follow.
    """

    gemm1: str = "f32"  # the first product, before the activation function
    activation: str = "f32"  # SiLU(gate) * up, before any second quantization
    expert: str = "f32"  # each expert's output, before its router weight
    combine: str = "f32"  # the weighted sum over the k experts, while it accumulates
    # What each addition of a product's sum loses, relative to the root of the sum of squares of
    # its terms; over K terms sqrt(K) of it gathers. float32's own is about 2**-24.
    accumulation: float = 2.0**-23
    # After how many terms a short accumulator is added to a float32 one, so that no more of its
    # loss gathers; None: never.
    promoted: int | None = None
    # (terms, bits) where the loss of a single sum is known better: so many products at a time are
    # aligned with the sum so far to the largest of them, and cut off so many bits below it.
    aligned: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for place in ("gemm1", "activation", "expert", "combine"):
            if getattr(self, place) not in ("f32", "model"):
                raise ValueError(f"{place} is {getattr(self, place)!r}; it must be f32 or model")
        if not 0 <= self.accumulation <= BF16_LOSS:
            rule = "what one addition loses, relative: at least 0 and at most bf16's own 2**-8"
            raise ValueError(f"accumulation is {self.accumulation}; it is {rule}")
        if self.promoted is not None and self.promoted < 1:
            raise ValueError(f"promoted is {self.promoted}; it counts terms: at least 1, or None")
        if self.aligned is not None and min(self.aligned) < 1:
            raise ValueError(f"aligned is {self.aligned}; it is (terms, bits), each at least 1")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a member needs. An empty set or None means: anything."""

    features: frozenset[str] = frozenset()  # all of them, of the platform
    dtypes: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()  # Scheme.weights it takes
    activations: frozenset[str] = frozenset()  # Scheme.activations it takes
    # Rows of `moe.activations` that an experts backend computes; other families do not ask.
    activation_functions: frozenset[str] = frozenset({"silu"})
    hidden_multiple: int = 1
    shard_multiple: int = 1  # of the intermediate size on every rank
    max_world: int | None = None
    packages: tuple[str, ...] = ()  # importable top-level names
    probe: str | None = None  # "module:function" -> Reason | None, for what only code can tell

    def refusal(self, problem: Problem, platform: Platform) -> Reason | None:
        """The first need that does not hold, or None."""
        for check in (_features, _formats, _sizes, _packages):
            reason = check(self, problem, platform)
            if reason is not None:
                return reason
        return None


def _features(needs: Needs, _: Problem, platform: Platform) -> Reason | None:
    missing = sorted(needs.features - platform.features)
    if missing:
        text = f"needs {', '.join(missing)}, which {platform.name} does not have"
        return Reason(code="platform_lacks_feature", text=text)
    return None


def _formats(needs: Needs, problem: Problem, _: Platform) -> Reason | None:
    rows = (
        ("dtype", needs.dtypes, problem.dtype),
        ("weight_format", needs.weights, problem.scheme.weights),
        ("activation_format", needs.activations, problem.scheme.activations),
    )
    for what, taken, asked in rows:
        if taken and asked not in taken:
            text = f"takes {what} {', '.join(sorted(taken))}, not {asked}"
            return Reason(code=f"{what}_unsupported", text=text)
    return None


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


def experts_refusal(needs: Needs, problem: Problem, platform: Platform) -> Reason | None:
    """`Needs.refusal` for an experts row, which computes the activation function, too."""
    taken = needs.activation_functions
    if taken and problem.activation not in taken:
        text = f"computes the activation {', '.join(sorted(taken))}, not {problem.activation}"
        return Reason(code="activation_unsupported", text=text)
    return needs.refusal(problem, platform)


@cache
def _installed(package: str) -> bool:
    """Searching the path costs .1 ms, and a plan asks for every point."""
    return importlib.util.find_spec(package) is not None


def resolve(target: str):  # type: ignore[no-untyped-def]  # whatever the target is
    """Import `"package.module:Name"` and return what it names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One member of a family: what it is called, what it needs, where its class is."""

    name: str
    target: str  # "package.module:Class", imported on use
    needs: Needs = field(default_factory=Needs)
    numerics: Numerics = field(default_factory=Numerics)
    # Where a member rounds elsewhere for some activation formats: keys of FORMATS.
    numerics_of: Mapping[str, Numerics] = field(default_factory=dict)
    deterministic: bool = False  # the same call on the same ranks gives the same bits

    def numerics_for(self, scheme: Scheme, device: str) -> Numerics:
        """What the member declares for this scheme on a device of this torch type.

        What is `aligned` is a tensor core's doing, and a CPU has none: kernels that are
        interpreted there lose what float32 does.
        """
        declared = self.numerics_of.get(scheme.activations, self.numerics)
        if device != "cpu" or declared.aligned is None:
            return declared
        return replace(declared, accumulation=FLOAT32_LOSS, promoted=None, aligned=None)


def problem_refusal(problem: Problem) -> Reason | None:
    """What makes a problem impossible for every member."""
    layout = problem.layout
    if problem.top_k > problem.num_experts:
        text = f"top-k {problem.top_k} of only {problem.num_experts} experts"
        return Reason(code="top_k_exceeds_experts", text=text)
    if layout.sequence_parallel and not (layout.use_ep and layout.tp_size > 1):
        text = "sequence parallel is expert parallel with tp_size > 1; set use_ep and tp_size"
        return Reason(code="sp_needs_ep_and_tp", text=text)
    if min(problem.shard_sizes) == 0:
        text = (
            f"intermediate size {problem.intermediate} over {layout.world_size} ranks: one is empty"
        )
        return Reason(code="empty_shard", text=text)
    return None
