"""Calls, loads, rebalances and a rank that goes away, in any order: outputs stay right.

The ranks are threads. What is right comes from a layer of one rank that has no load balancing.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from moe import expert_shards, layer
from moe.collectives import ALONE, Groups
from moe.eplb.balance import Cluster
from moe.eplb.difference import without_rank
from moe.eplb.exchange import pack, unpack
from moe.eplb.manager import Balancer, cluster_of, largest_load
from moe.errors import MoEError
from moe.layout import Layout
from moe.placement import Placement
from moe.quant import QUANT
from moe.spec import LayerSpec
from tests.moe.eplb.thread_ranks import World, group_of, groups_of

pytestmark = pytest.mark.usefixtures("one_thread")
E, K, N, LAYERS = 4, 32, 16, 2
# Without scales; with them; with zero points; with global scales, for calibrated activations.
METHODS = ("none", "fp8_channel", "int4_zp_g32", "nvfp4")


def spec_of(quant, world, placed=None):
    balanced = {} if world == 1 else {"eplb": "global", "redundant": 3 * world - E}
    return LayerSpec(
        m=8,
        hidden=K,
        intermediate=N,
        num_experts=E,
        top_k=2,
        dtype="f32",
        scheme=QUANT.row(quant).scheme,
        expert_bias=True,
        layout=Layout(dp_size=world, use_ep=world > 1),
        eplb_window=2,
        placed=placed,
        **balanced,
    )


def matrices(number):
    """Full weights and biases of a layer's experts; magnitudes differ from expert to expert."""
    made = torch.Generator().manual_seed(number)
    size = torch.arange(1.0, E + 1)[:, None, None] / E
    w13 = torch.randn(E, 2 * N, K, generator=made) * size / 4
    w2 = torch.randn(E, K, N, generator=made) * size / 4
    return w13, w2, (torch.randn(E, 2 * N, generator=made), torch.randn(E, K, generator=made))


def built(quant, number, spec, rank, groups):
    w13, w2, biases = matrices(number)
    held = list(spec.experts_of(rank))
    weights = expert_shards.shard_weights(
        *(spec, rank, QUANT.load(quant)(), w13[held], w2[held]), tuple(b[held] for b in biases)
    )
    if quant == "nvfp4":
        weights = weights.replace(a1_scale=torch.tensor(300.0), a2_scale=torch.tensor(200.0))
    a2a = "local" if spec.layout.world_size == 1 else "allgather_reducescatter"
    members = layer.Members(experts="torch_loop", all2all=a2a, quant=quant)
    return layer.build(spec, rank, groups, members, weights)


class Stack:
    """Layers on ranks that are threads, and the same layers on one rank."""

    def __init__(self, quant, world, placed=(None,) * LAYERS):
        self.quant, self.world = quant, World(world)
        specs = [spec_of(quant, world, p) for p in placed]
        self.layers = [
            [built(quant, i, s, r, groups_of(self.world, r)) for i, s in enumerate(specs)]
            for r in range(world)
        ]
        alone = Groups(gather=ALONE, tp=ALONE)
        self.right = [built(quant, i, spec_of(quant, 1), 0, alone) for i in range(LAYERS)]
        self.balancers = [
            Balancer(self.slots(r), cluster_of(specs[0]), group_of(self.world, r))
            for r in range(world)
        ]

    def slots(self, rank):
        return [one.kernel.slots for one in self.layers[rank]]

    def each(self, do):
        return self.world.run(lambda rank: do(self.balancers[rank]))

    def check_forward(self, seed, skew):
        """One call of each layer, with other tokens on each rank, some ranks without any."""
        made = torch.Generator().manual_seed(seed)
        counts = [int(torch.randint(0, 9, (), generator=made)) for _ in range(self.world.size)]
        xs = [torch.randn(count, K, generator=made) for count in counts]
        lean = torch.linspace(0, skew, E)
        logits = [torch.randn(count, E, generator=made) + lean for count in counts]
        for number, right in enumerate(self.right):
            outs = self.world.run(
                lambda r, n=number: self.layers[r][n].forward(xs[r], logits[r]).out
            )
            for x, z, out in zip(xs, logits, outs, strict=True):
                expected = right.forward(x, z).out
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)

    def without(self, lost):
        """The stack of the ranks that are left: slots keep their bytes, lost experts are loaded."""
        after = [without_rank(s.placement, lost) for s in self.slots(0)]
        left = [rank for rank in range(self.world.size) if rank != lost]
        placed = tuple(placement.physical_to_logical for placement, _ in after)
        other = Stack(self.quant, len(left), placed)
        for new_rank, old_rank in enumerate(left):
            for number, (placement, again) in enumerate(after):
                new, old = other.slots(new_rank)[number], self.slots(old_rank)[number]
                for slot, expert in enumerate(placement.experts_of(new_rank)):
                    if expert not in again:
                        for tensor in new.tensors.values():
                            tensor[slot] = torch.zeros_like(tensor[slot])  # nothing from building
                        where = old.placement.experts_of(old_rank).index(expert)
                        unpack(new.tensors, slot, pack(old.tensors, where))
        return other


class Balancing(RuleBasedStateMachine):
    @initialize(quant=st.sampled_from(METHODS))
    def start(self, quant):
        self.stack, self.is_moving = Stack(quant, 3), False

    @rule(seed=st.integers(0, 99), skew=st.sampled_from((0.0, 2.0, -6.0)))
    def forward(self, seed, skew):
        self.stack.check_forward(seed, skew)

    @rule()
    def rebalance(self):
        if not self.is_moving:
            self.stack.each(lambda b: b.rebalance())

    @rule()
    def rebalance_one_layer(self):
        if not self.is_moving:
            assert len(set(self.stack.each(lambda b: b.rebalance_next()))) == 1

    @rule()
    def begin_to_move(self):
        if not self.is_moving:
            self.stack.each(lambda b: [b.start(n, b.wanted(n)) for n in range(LAYERS)])
            self.is_moving = True

    @rule()
    def finish_to_move(self):
        if self.is_moving:
            self.stack.each(lambda b: [b.finish(n) for n in range(LAYERS)])
            self.is_moving = False

    @rule(rank=st.integers(0, 2), seed=st.integers(0, 99))
    def a_rank_goes_away(self, rank, seed):
        if not self.is_moving and self.stack.world.size == 3:
            self.stack = self.stack.without(rank)
            self.stack.check_forward(seed, 0.0)

    @invariant()
    def all_ranks_agree_where_experts_are(self):
        if hasattr(self, "stack"):
            for number in range(LAYERS):
                ranks = range(self.stack.world.size)
                slots = [self.stack.slots(rank)[number] for rank in ranks]
                assert len({s.placement for s in slots}) == 1
                held = slots[0].placement
                assert set(held.physical_to_logical) == set(range(E))


TestBalancing = Balancing.TestCase
TestBalancing.settings = settings(max_examples=6, stateful_step_count=6, deadline=None)


@pytest.mark.parametrize("quant", METHODS)
def test_several_rebalances_in_a_row_with_calls_between(quant):
    """Skewed one way, then the other, so that other experts get the replicas."""
    stack = Stack(quant, 3)
    places = []
    for turn, skew in enumerate((3.0, -3.0, 3.0)):
        stack.check_forward(turn, skew)
        stack.check_forward(10 + turn, skew)
        stack.each(lambda b: b.rebalance())
        places.append([s.placement for s in stack.slots(0)])
        stack.check_forward(20 + turn, skew)
    assert places[0] != places[1], "the loads are others"
    assert sum(b.sent_bytes for b in stack.balancers) > 0


def test_loads_decide_and_a_placement_that_is_as_good_stays():
    stack = Stack("none", 3)
    first = [s.placement for s in stack.slots(0)]
    stack.each(lambda b: b.rebalance())
    assert [s.placement for s in stack.slots(0)] == first, "no loads, no moves"
    stack.check_forward(1, 8.0)
    wanted = stack.each(lambda b: b.wanted(0))
    assert len(set(wanted)) == 1
    held = wanted[0].physical_to_logical
    assert [held.count(e) for e in (0, 1)] == [1, 1], "nearly all tokens choose the last two"


def test_the_load_of_an_expert_is_shared_by_its_replicas():
    placement = Placement(num_experts=2, physical_to_logical=(0, 1, 0, 0), counts=(2, 2))
    assert largest_load(placement, [6, 1]) == 4


def test_a_hierarchical_layer_has_a_node_for_each_dp_rank():
    spec = spec_of("none", 2)
    assert cluster_of(spec) == Cluster(slots=6, ranks=2)
    fields = {"eplb": "hierarchical", "router_groups": 2}
    values = {name: getattr(spec, name) for name in vars(spec)} | fields
    assert cluster_of(LayerSpec(**values)) == Cluster(slots=6, ranks=2, nodes=2, groups=2)


def test_ranks_that_were_given_different_placements_all_raise_an_error():
    """None waits for weights that no other rank sends."""
    stack = Stack("none", 2)
    present = stack.slots(0)[0].placement
    held = present.physical_to_logical[::-1]
    other = Placement(num_experts=E, physical_to_logical=held, counts=present.counts)

    def start(rank):
        with pytest.raises(MoEError, match=r"different placements .* in rank order"):
            stack.balancers[rank].start(0, other if rank else present)

    stack.world.run(start)
    stack.each(lambda b: b.start(0, present))  # nothing was begun


def test_a_layer_moves_once_at_a_time():
    stack = Stack("none", 2)
    present = stack.slots(0)[0].placement
    stack.each(lambda b: b.start(0, present))
    with pytest.raises(MoEError, match="layer 0 is being moved already"):
        stack.balancers[0].start(0, present)
    stack.each(lambda b: b.finish(0))
    with pytest.raises(MoEError, match="layer 0 is not being moved"):
        stack.balancers[0].finish(0)
