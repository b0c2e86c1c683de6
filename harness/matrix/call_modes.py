"""How a layer can be called: the table of call modes, by name. No torch.

A mode says what it needs of a machine and of a layer, and in which word a member's row must name
it (`Needs.call_modes`); where that does not hold, the case is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

EAGER = "eager"
SMALL_TILES = "small_tiles"
STRIDED = "strided"
OVERWRITTEN = "overwritten"
TWO_BATCHES = "two_batches"
AOT_EAGER = "aot_eager"
COMPILE = "compile"
GRAPH = "graph"
SIDE_STREAM = "side_stream"


@dataclass(frozen=True, kw_only=True)
class CallModeSpec:
    """Declare one call mode.

    target: "package.module:Class" of a `harness.fixtures.call_mode.CallMode`, imported on a rank.
    word: which the rows of experts, all2all and router, or of a whole layer, must have in
    `call_modes` of their needs; None: the mode asks nothing of them.
    probe: "package.module:function", called with the machine -> Reason | None.
    seconds: what the mode adds to a case of small sizes, as measured on one core, for estimates.
    """

    name: str
    description: str  # one line
    target: str
    word: str | None = None
    probe: str | None = None
    on_device: bool = False  # needs a GPU, and one for each rank, since transports through the
    # host synchronise with it
    adds_padding: bool = False  # more rows than the caller's, which are padding
    splits_tokens: bool = False  # parts of a call's tokens go through the layer by themselves
    is_of_shared: bool = False  # is about shared experts of the composed layer
    seconds: float = 0.0


_ROWS = (
    CallModeSpec(
        name=EAGER,
        description="the layer's Python code runs in each call",
        target="harness.fixtures.call_mode:Eager",
    ),
    CallModeSpec(
        name=SMALL_TILES,
        description="our own kernels compute small tiles, so that a small layer has many",
        target="harness.fixtures.call_mode:SmallTiles",
    ),
    CallModeSpec(
        name=STRIDED,
        description="tokens and logits are rows of wider tensors",
        target="harness.fixtures.call_mode:Strided",
    ),
    CallModeSpec(
        name=OVERWRITTEN,
        description="the caller overwrites all inputs as soon as the call has returned",
        target="harness.fixtures.call_mode:Overwritten",
    ),
    CallModeSpec(
        name=TWO_BATCHES,
        description="two halves of the tokens go through the layer, taking turns at its stages",
        target="harness.fixtures.two_batches:TwoBatches",
        word="two_batches",
        splits_tokens=True,
    ),
    CallModeSpec(
        name=AOT_EAGER,
        description="one graph of torch.compile for all numbers of tokens, run by single operators",
        target="harness.fixtures.compiled_call:AotEager",
        word="compile",
        seconds=5.0,
    ),
    CallModeSpec(
        name=COMPILE,
        description="one graph of torch.compile for all numbers of tokens, with inductor's kernels",
        target="harness.fixtures.compiled_call:Inductor",
        word="compile",
        probe="harness.plan.call_needs:no_compiler",
        seconds=15.0,
    ),
    CallModeSpec(
        name=GRAPH,
        description="a captured CUDA graph is replayed with other tokens, routing and row counts",
        target="harness.fixtures.graph_call:Graph",
        word="graph",
        on_device=True,
        adds_padding=True,
    ),
    CallModeSpec(
        name=SIDE_STREAM,
        description="the shared experts run on a stream of their own beside the routed ones",
        target="harness.fixtures.side_stream_call:SideStream",
        on_device=True,
        is_of_shared=True,
    ),
)
CALL_MODES = {row.name: row for row in _ROWS}
# What random cases draw: compiling takes longer than all else of a case.
RANDOM_MODES = (EAGER, EAGER, EAGER, SMALL_TILES, STRIDED, OVERWRITTEN, TWO_BATCHES)
