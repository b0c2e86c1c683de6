"""Kernels that join an all2all and an experts backend: what travels, what experts are given."""

import dataclasses

import pytest
import torch

from harness import parallel_launch
from moe import intermediates
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.moe_kernel import KERNELS, MoEKernel, MonolithicKernel
from moe.spec import KINDS
from moe.types import Activations, Dispatched, Routing
from tests.moe import failing_ranks
from tests.moe.test_layer import build, layer_spec, members

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting:
    """An all2all backend's stand-in that keeps what it was sent."""

    def __init__(self):
        self.sent = None

    def prepare(self, x, routing):
        self.sent = x
        return Dispatched(x=x, routing=routing, counts=(len(x.codes),))

    def finalize(self, partial, dispatched):
        return partial


@pytest.mark.parametrize(
    ("name", "travels"), [("fp8_block", torch.float8_e4m3fn), ("fp8_tensor_dynamic", None)]
)
def test_what_travels_is_quantized_where_the_scale_is_the_row_s_own(name, travels):
    """A dynamic per-tensor scale spans all ranks' rows, so those travel as they are."""
    built = build(layer_spec(name), members(quant=name)).kernel
    wire = Counting()
    kernel = MoEKernel(
        prepare_finalize=wire,
        experts=built.experts,
        quant=built.quant,
        expert_map=built.expert_map,
    )
    routing = Routing(
        topk_ids=torch.tensor([[0, 1]], dtype=torch.int32), topk_weights=torch.ones(1, 2)
    )
    out = kernel.apply(torch.ones(1, 64).bfloat16(), routing)
    assert isinstance(wire.sent, Activations)
    assert wire.sent.codes.dtype == (travels or torch.bfloat16)
    assert (out.dtype, out.shape) == (torch.bfloat16, (1, 64))


def test_a_layer_is_composed_by_its_backend_s_kind(monkeypatch):
    class Joined(MoEKernel):
        pass

    assert tuple(KERNELS) == KINDS
    monolithic = build(layer_spec(), members(experts="torch_monolithic"))
    assert type(monolithic.kernel) is MonolithicKernel
    monkeypatch.setitem(KERNELS, "modular", Joined)
    assert type(build(layer_spec(), members()).kernel) is Joined


def test_experts_take_the_bundle_that_was_prepared_with_local_ids(monkeypatch):
    bundles = []
    kind = EXPERTS.load("torch_loop")
    real = kind.run
    monkeypatch.setattr(kind, "run", lambda self, given: real(self, bundles.append(given) or given))
    built = build(layer_spec(), members(all2all="local")).kernel
    moved = dataclasses.replace(built, expert_map=built.expert_map.flip(0))
    routing = Routing(
        topk_ids=torch.tensor([[0, 3]], dtype=torch.int32), topk_weights=torch.ones(1, 2)
    )
    moved.apply(torch.ones(1, 64).bfloat16(), routing)
    (bundle,) = bundles
    assert bundle.routing.topk_ids.tolist() == [[3, 0]]
    assert bundle.counts == (1,)


def test_tokens_in_chunks_give_the_same_bits_with_the_stages_of_all():
    routing = Routing(
        topk_ids=torch.tensor([[0, 1], [2, 3], [1, -1], [3, 0], [2, 1]], dtype=torch.int32),
        topk_weights=torch.rand(5, 2, generator=torch.Generator().manual_seed(0)),
    )
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    outs, stages = [], []
    for chunk in (0, 2, 5, 9):
        spec = dataclasses.replace(layer_spec(), chunk=chunk)
        with intermediates.recording() as kept:
            outs.append(build(spec, members()).kernel.apply(x, routing))
        stages.append(kept)
    assert all(torch.equal(out, outs[0]) for out in outs)
    for name in ("ids", "weights", "input", "combine"):
        assert all(torch.equal(kept[name].value, stages[0][name].value) for kept in stages), name
    assert build(spec, members()).kernel.apply(x[:0], _none(routing)).shape == (0, 64)


def test_after_an_error_inside_a_collective_no_later_chunk_is_sent(monkeypatch):
    """Another rank may wait in the same collective: a later one would take its place."""
    kernel = build(dataclasses.replace(layer_spec(), chunk=2), members()).kernel
    entered = []

    def broken(*_):
        entered.append("prepare")
        raise RuntimeError("connection closed by peer")

    def failing(*_):
        entered.append("experts")
        raise RuntimeError("a row is out of range") from KeyError("its cause")

    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    routing = Routing(topk_ids=torch.zeros(5, 2, dtype=torch.int32), topk_weights=torch.ones(5, 2))
    monkeypatch.setattr(kernel.experts, "run", failing)
    with pytest.raises(RuntimeError, match="out of range") as caught:
        kernel.apply(x, routing)
    assert entered == ["experts"] * 3
    assert isinstance(caught.value.__cause__, KeyError)
    monkeypatch.setattr(kernel.prepare_finalize, "prepare", broken)
    with pytest.raises(RuntimeError, match="closed by peer"):
        kernel.apply(x, routing)
    assert entered[3:] == ["prepare"]


def _none(routing):
    return Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])


ALL_ROWS, ROWS_OF_RANK_1 = [0, 1, 2, 3], [2, 3]
# (all2all, experts, capacity) -> rows that the other rank has lost if experts of rank 1 fail.
LOST = {
    ("allgather_reducescatter", "torch_loop", None): ALL_ROWS,  # ranks sum whole rows
    ("naive", "torch_loop", None): ALL_ROWS,
    ("all_to_all", "torch_loop", None): ROWS_OF_RANK_1,
    ("all_to_all_batched", "triton_batched", None): ROWS_OF_RANK_1,
    ("symm_mem", "torch_loop", None): ROWS_OF_RANK_1,
    ("symm_mem", "torch_loop", 4): ROWS_OF_RANK_1,
}


def test_experts_that_fail_on_one_rank_leave_the_next_call_right():
    """The other rank neither waits nor gets what an earlier call left: it gets NaN."""
    of_0, of_1 = parallel_launch(2, failing_ranks.one_fails_with, tuple(LOST))
    assert of_0 == [(rows, [True, True]) for rows in LOST.values()]
    assert of_1 == [("a row is out of range []", [True, True])] * len(LOST)


def test_a_batch_that_fails_keeps_the_turns_of_the_other():
    of_0, of_1 = parallel_launch(2, failing_ranks.one_of_two_batches_fails, "symm_mem")
    assert of_0 == ([[], ROWS_OF_RANK_1], True)
    assert of_1 == ("a row is out of range []", True)


def test_a_failure_to_tell_the_other_ranks_is_told_with_the_first_error(monkeypatch):
    def refused(*_):
        raise MoEError("the device takes no more work")

    kernel = build(layer_spec(), members(all2all="local")).kernel
    monkeypatch.setattr(kernel.prepare_finalize, "finalize", refused)
    monkeypatch.setattr(kernel.experts, "apply", failing_ranks.failing)
    routing = Routing(
        topk_ids=torch.tensor([[0, 1]], dtype=torch.int32), topk_weights=torch.ones(1, 2)
    )
    with pytest.raises(RuntimeError, match="a row is out of range") as caught:
        kernel.apply(torch.ones(1, 64).bfloat16(), routing)
    (note,) = caught.value.__notes__
    assert note.endswith("since that failed, too: the device takes no more work")
