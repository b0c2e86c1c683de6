"""`run_case` on the real stack: right members pass on every layout, planted mistakes fail."""

from __future__ import annotations

import dataclasses
import functools
import re

import pytest

from harness import parallel_launch
from harness.checks.output import METRICS
from harness.execute import run_case
from harness.fixtures.call_sizes import call_counts
from harness.matrix.case import MoETestConfig
from harness.record.cross_case import Agreement, Sketch
from harness.record.result import RankResult, Verdict
from moe.experts import EXPERTS
from moe.platforms import platform
from moe.quant import QUANT
from moe.registry import Registry
from moe.shared import SharedExperts
from moe.spec import Layout
from tests.harness.diagnosis.planted_mistakes import MISTAKES
from tests.harness.execute_ranks import (
    case,
    context,
    run_all,
    run_planted,
    run_shuffled,
    run_with_another_last_bit,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# --- one rank: every method with every backend that takes it here


def pairs():
    """(quant, experts) of the tables that run on a CPU."""
    cpu = platform("cpu")
    for quant in QUANT.rows:
        for row in EXPERTS:
            if row.needs.refusal(case(quant=quant).layer_spec, cpu) is None:
                yield quant, row.name


@pytest.mark.parametrize(("quant", "experts"), list(pairs()))
def test_a_right_member_passes_inside_its_bound(quant, experts):
    found = run_case(case(quant=quant, experts=experts, all2all="local"), context())
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())
    assert 0.02 < found.metrics["bound_used"] < 1
    assert set(found.metrics) == set(METRICS)
    assert found.metrics["rows"] == 3


def test_a_layout_that_does_not_say_where_a_rank_is_has_a_message_of_its_own(monkeypatch):
    """Before anything is made; the stages between ranks looked such a rank up in vain."""
    monkeypatch.setattr(Layout, "tp_rank", lambda layout, rank: rank // layout.dp_size)
    monkeypatch.setattr(Layout, "dp_rank", lambda layout, rank: rank % layout.dp_size)
    with pytest.raises(
        ValueError, match="the layout assigns rank 1 the DP rank 1 of 2, context rank"
    ):
        run_case(case(dp_size=2, tp_size=2), context())


def test_a_result_says_how_long_each_phase_took():
    found = run_case(case(), context())
    assert {"inputs", "layer", "reference", "judge"} <= set(found.seconds)
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_a_rank_says_in_which_phase_it_is():
    said = []
    run_case(case(), dataclasses.replace(context(), report_status=said.append))
    phases = ["inputs", "layer", "reference", "judge", "stages", "battery"]
    assert [text for text in dict.fromkeys(said) if text in phases] == phases


@pytest.mark.parametrize(
    ("family", "asked", "other", "classes"),
    [
        ("experts", "torch_grouped", "torch_loop", ("TorchGroupedExperts", "TorchLoopExperts")),
        ("router", "sigmoid", "softmax", ("SigmoidTopK", "SoftmaxTopK")),
    ],
)
def test_an_output_of_another_member_fails(monkeypatch, family, asked, other, classes):
    load = Registry.load

    def load_other(table, name):
        return load(table, other if name == asked else name)

    monkeypatch.setattr(Registry, "load", load_other)
    found = run_case(case(**{family: asked}), context())
    assert found.verdict is Verdict.FAILED
    text = f"{family}: asked for {asked} ({classes[0]}), and {classes[1]} ran"
    assert text in found.messages


def test_cases_of_one_gang_share_what_they_can():
    """Weights serve every case, shards every case with the same method and layout."""
    here = context()

    def made(kind):
        return [key for key in here.caches if key[0] == kind]

    run_case(case(quant="fp8_tensor", m=5), here)  # with fewer tokens there is a second layer
    weights, shards = made("weights"), made("shard")
    assert (len(weights), len(shards)) == (4, 1)
    run_case(case(quant="fp8_tensor", experts="triton", m=6), here)
    assert set(made("shard")) == set(shards)
    run_case(case(quant="int8_channel", m=5), here)
    assert set(made("weights")) == set(weights)
    assert len(made("shard")) == 2


@pytest.mark.parametrize("after", ["torch_loop", "tests.harness.execute_ranks:ConvertsInPlace"])
def test_a_member_that_changes_its_weights_in_place_spoils_no_later_case(after):
    here = context()
    assert (
        run_case(case(experts="tests.harness.execute_ranks:ConvertsInPlace"), here).verdict
        is Verdict.PASSED
    )
    assert run_case(case(experts=after), here).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"k": 8, "experts": "torch_grouped"}, (9, 34)),
        ({"k": 8, "experts": "torch_grouped", "shared_experts": 1}, (9, 11)),
        ({"k": 4, "shared_experts": 1}, (3, 7, 14)),
        ({"k": 2, "quant": "int8_channel"}, (6, 12)),
        ({"k": 1}, (10, 21)),
    ],
)
def test_few_columns_raise_no_false_alarm(fields, seeds):
    """Roundings of few values scatter more; these seeds failed once."""
    here = context()
    for seed in seeds:
        found = run_case(case(m=8, n=64, seed=seed, **fields), here)
        assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_shared_experts_that_change_their_weights_change_not_the_truth(monkeypatch):
    """Nor a later case's, in a gang that keeps weights."""
    real, here = SharedExperts.forward, context()

    def forward(self, x):
        self.weights.w13.clamp_(-0.05, 0.05)
        return real(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(SharedExperts, "forward", forward)
        assert run_case(case(m=8, shared_experts=1), here).verdict is Verdict.FAILED
    assert run_case(case(m=8, shared_experts=1), here).verdict is Verdict.PASSED


def test_tp_ranks_hold_the_same_bits():
    """By itself the last bit of one element is nothing."""
    found = parallel_launch(2, run_with_another_last_bit, case(m=8, tp_size=2).id)
    assert [one.verdict for one in found] == [Verdict.FAILED] * 2
    for one in found:
        assert one.metrics["bound_used"] < 1
        assert one.messages[0].startswith(
            "ranks of one TP group hold different bits of 1 of 8 tokens (4): "
        )


def test_what_experts_write_on_their_input_is_told_as_that():
    """Neither router nor dispatch is blamed, which gave what is right."""
    writes = case(m=8, experts="tests.harness.execute_ranks:WritesOnWhatItIsGiven", all2all="local")
    found = run_case(writes, context())
    assert found.verdict is Verdict.FAILED
    kinds = {text.rpartition("memory: ")[2] for text in found.messages}
    assert kinds == {
        "the layer changed its input x",
        "the layer changed the router weights after it had chosen them",
    }
    assert found.metrics["bound_used"] < 1


def test_experts_may_write_on_what_was_gathered_for_them():
    writes = case(
        dp_size=2, use_ep=True, experts="tests.harness.execute_ranks:WritesOnWhatItIsGiven"
    )
    for (found,) in parallel_launch(2, run_all, [writes.id]):
        assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_a_static_scale_that_a_member_changes_in_place_is_its_own():
    """Neither this case's truth nor a later case has it."""
    here = context()
    scaled = case(m=8, quant="fp8_tensor", experts="tests.harness.execute_ranks:ScalesInPlace")
    assert run_case(scaled, here).verdict is Verdict.FAILED
    assert run_case(case(m=8, quant="fp8_tensor"), here).verdict is Verdict.PASSED
    alone = run_case(case(m=8, quant="fp8_tensor"), context())
    assert run_case(case(m=8, quant="fp8_tensor"), here).metrics == alone.metrics


@pytest.mark.parametrize(
    ("fields", "first", "second"),
    [
        ({"m": 1}, (1,), (2,)),
        ({"m": 32}, (32,), (17,)),
        ({"m": 3, "dp_size": 2}, (3, 3), (2, 2)),
        ({"m": 6, "dp_size": 3, "tokens": "ragged"}, (6, 4, 2), (4, 3, 2)),
        ({"m": 4, "dp_size": 2, "tokens": "idle"}, (4, 0), (3, 0)),
    ],
)
def test_a_case_makes_two_calls_of_different_sizes(fields, first, second):
    assert call_counts(case(**fields)) == (first, second)


# --- many ranks: every layout

WORLD_2 = (
    {"tp_size": 2},
    {"tp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True, "sequence_parallel": True, "m": 1},
    {
        "tp_size": 2,
        "use_ep": True,
        "sequence_parallel": True,
        "m": 7,
        "quant": "fp8_tensor_dynamic",
    },
    {"dp_size": 2, "tokens": "idle"},
    {"dp_size": 2, "tokens": "ragged", "m": 7, "quant": "int8_channel", "n": 129},
    {"dp_size": 2, "use_ep": True, "tokens": "none"},
    {"dp_size": 2, "use_ep": True, "tokens": "alone", "quant": "fp8_tensor_dynamic"},
    {"dp_size": 2, "use_ep": True, "logits": "last", "num_experts": 5},
    {"pcp_size": 2, "m": 7, "shared_experts": 1},
    {"dp_size": 2, "use_ep": True, "m": 1},
    {"dp_size": 2, "use_ep": True, "tokens": "idle", "quant": "fp8_tensor_dynamic"},
    {"dp_size": 2, "use_ep": True, "tokens": "ragged", "num_experts": 5, "top_k": 3},
    {"dp_size": 2, "use_ep": True, "num_experts": 1, "top_k": 1},
    {"tp_size": 2, "quant": "fp8_block", "n": 256},
    {"tp_size": 2, "quant": "fp8_tensor", "shared_experts": 1},
    {"tp_size": 2, "use_ep": True, "sequence_parallel": True, "shared_experts": 2, "m": 4},
    {"dp_size": 2, "use_ep": True, "quant": "int8_channel", "experts": "triton"},
    {"dp_size": 2, "use_ep": True, "experts": "torch_grouped", "renormalize": False},
    {"tp_size": 2, "dtype": "f32"},
    {"tp_size": 2, "dtype": "fp16", "quant": "fp8_block", "use_ep": True},
)
WORLD_4 = (
    {"tp_size": 4, "n": 130},
    {"dp_size": 2, "pcp_size": 2, "use_ep": True, "moe_tp_size": 2, "n": 130, "expert_bias": True},
    {"tp_size": 4, "use_ep": True, "moe_tp_size": 2, "quant": "fp8_tensor_dynamic", "top_k": 3},
    {"dp_size": 4, "use_ep": True, "expert_dp_size": 2, "quant": "fp8_tensor_dynamic"}
    | {"tokens": "ragged", "m": 6, "shared_experts": 1},
    {"pcp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True, "m": 3},
    {"dp_size": 4, "tokens": "ragged", "m": 6},
    {"dp_size": 4, "use_ep": True, "num_experts": 6, "tokens": "idle"},
    {"dp_size": 2, "tp_size": 2, "quant": "fp8_tensor_dynamic", "shared_experts": 1},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "num_experts": 3, "tokens": "idle"},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True, "m": 1},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True, "tokens": "ragged"}
    | {"m": 5, "num_experts": 6, "quant": "fp8_block", "shared_experts": 1},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "num_experts": 2, "quant": "int8_channel"},
)
LAYOUTS = [case(**fields) for fields in (*WORLD_2, *WORLD_4)]


@functools.cache
def launched(world: int) -> dict[str, list[RankResult]]:
    """Case id -> every rank's result: all layouts of one world in one gang, one after another."""
    ids = [c.id for c in LAYOUTS if c.world_size == world]
    by_rank = parallel_launch(world, run_all, ids, timeout=120)
    return {text: [results[i] for results in by_rank] for i, text in enumerate(ids)}


@pytest.mark.parametrize("point", LAYOUTS, ids=lambda point: point.id)
def test_a_right_stack_passes_on_every_layout(point):
    results = launched(point.world_size)[point.id]
    assert [r.rank for r in results] == list(range(point.world_size))
    for result in results:
        assert (result.verdict, result.messages) == (Verdict.PASSED, ())
        counts = call_counts(point)
        held = [len(point.layout.tokens_of(result.rank, c)) for c in counts]
        assert result.metrics["rows"] == max(held)
        if max(held):
            assert 0.02 < result.metrics["bound_used"] < 1
        assert len(result.sketches) == min(2, held[0])


SHUFFLED = (
    {"dp_size": 2, "use_ep": True, "num_experts": 6, "top_k": 3, "quant": "fp8_block"},
    {"tp_size": 2, "use_ep": True, "num_experts": 7, "experts": "triton", "shared_experts": 1},
)


@pytest.mark.parametrize("fields", SHUFFLED, ids=str)
def test_a_right_stack_passes_where_no_rank_s_experts_are_a_range(fields):
    """Layer, reference, checks and mutants go by the placement: none counts ids from a start."""
    for result in parallel_launch(2, run_shuffled, case(**fields).id):
        assert (result.verdict, result.messages) == (Verdict.PASSED, ())


def test_another_rank_s_map_is_named_where_no_rank_s_experts_are_a_range():
    point = case(**SHUFFLED[0])
    for result in parallel_launch(2, functools.partial(run_shuffled, stale=True), point.id):
        assert result.verdict is Verdict.FAILED
        causes = [cause.name for call in result.diagnosis.calls for cause in call.causes]
        assert "stale_expert_map" in causes, result.messages


def test_a_rank_without_tokens_was_among_them():
    split = case(**WORLD_2[2])
    assert [r.metrics["rows"] for r in launched(2)[split.id]] == [1, 1]  # 1 and 0, then 1 and 1
    idle = case(**WORLD_2[4])
    assert [r.metrics["rows"] for r in launched(2)[idle.id]] == [3, 0]


def sketches(results):
    return [Sketch.from_json(s) for result in results for s in result.sketches]


def test_layouts_and_members_agree_on_the_same_tokens():
    """Outputs of real cases with the same content, against each other."""
    seen = Agreement()
    compared = 0
    for point in LAYOUTS:
        found = sketches(launched(point.world_size)[point.id])
        assert seen.check(point, found) == []
        compared += len(found)
    assert compared - len(seen._first_outputs) >= 10, (
        "tokens that were compared with an earlier case's"
    )
    wrong = [dataclasses.replace(s, values=tuple(2 * v for v in s.values)) for s in found]
    (text,) = seen.check(LAYOUTS[-1], wrong)
    assert "outputs differ by" in text


# --- mistakes


def outcome(name: str) -> list[RankResult]:
    point = MISTAKES[name].case
    if point.world_size == 1:
        return [run_planted(name, point.id)]
    return parallel_launch(point.world_size, run_planted, name, point.id)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name):
    results = outcome(name)
    messages = [text for result in results for text in result.messages]
    assert Verdict.FAILED in [result.verdict for result in results], messages
    assert any(re.search(MISTAKES[name].says, text) for text in messages), messages


def unplanted():
    """The cases of the mistakes, each once, without any mistake."""
    return sorted({m.case.id for m in MISTAKES.values()})


@functools.cache
def sound(world: int) -> dict[str, list[RankResult]]:
    ids = [text for text in unplanted() if MoETestConfig.from_id(text).world_size == world]
    by_rank = [run_all(ids)] if world == 1 else parallel_launch(world, run_all, ids)
    return {text: [results[i] for results in by_rank] for i, text in enumerate(ids)}


@pytest.mark.parametrize("text", unplanted())
def test_the_same_case_passes_without_the_mistake(text):
    for result in sound(MoETestConfig.from_id(text).world_size)[text]:
        assert (result.verdict, result.messages) == (Verdict.PASSED, ())
