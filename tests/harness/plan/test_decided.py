"""The axes that are said to decide a refusal do: whatever the others are, it stays."""

import random
from collections import Counter

import pytest

from harness.errors import UsageError
from harness.matrix.case import AXES, MoETestConfig
from harness.plan import row_needs
from harness.plan.decided import ALL, ASKED_BY, DecidingJudge
from harness.plan.machine import planned_for
from harness.plan.refusals import Judge
from moe import families

PLAIN = MoETestConfig(m=4, n=128, k=128, num_experts=8, top_k=2, experts="torch_loop")
VALUES = {
    "m": (1, 8, 512),
    "n": (100, 128, 192, 1, 4096),
    "k": (100, 128, 2048),
    "num_experts": (1, 4, 8, 512),
    "top_k": (1, 2, 6),
    "experts": tuple(families.table("experts").rows),
    "all2all": tuple(families.table("all2all").rows),
    "quant": tuple(families.table("quant").rows),
    "dtype": AXES["dtype"].choices,
    "dp_size": (1, 2, 4),
    "tp_size": (1, 2, 3),
    "use_ep": (False, True),
    "sequence_parallel": (False, True),
    "pcp_size": (1, 2),
    "moe_tp_size": (1, 2, 3),
    "expert_dp_size": (1, 2),
    "shared_experts": (0, 1),
    "renormalize": (False, True),
    "router": tuple(families.table("router").rows),
    "activation": tuple(families.table("activation").rows),
    "tokens": AXES["tokens"].choices,
    "logits": AXES["logits"].choices,
    "router_bias": (False, True),
    "gate": (False, True),
    "exact": (False, True),
    "call": ("eager", "small_tiles", "two_batches"),
    "skew": ("none", "calls"),
    "eplb": ("none", "global"),
}


def draw(rng):
    return PLAIN.replace(**{name: rng.choice(values) for name, values in VALUES.items()})


@pytest.mark.parametrize("platform", ["cpu", "cuda_sm90", "rocm_gfx942"])
def test_equal_values_of_the_deciding_axes_are_always_refused(platform):
    rng = random.Random(3)
    machine = planned_for(platform)
    judge, plain = DecidingJudge(machine), Judge(machine)
    codes = Counter()
    for _ in range(600):
        case = draw(rng)
        refused = judge.refused(case)
        reason = plain(case)[1]
        assert (refused and refused[0]) == (reason and reason.code)
        if refused is not None:
            codes[refused[0]] += 1
            assert refused[1] != ALL, (case.id, refused)  # searches would take very long
            kept = {name: getattr(case, name) for name in refused[1]}
            for _ in range(8):
                assert plain(draw(rng).replace(**kept))[1] is not None, (case.id, refused)
    assert len(codes) >= 6


def test_few_axes_decide():
    judge = DecidingJudge(planned_for("cpu"))
    case = PLAIN.replace(experts="torch_grouped", dtype="f32")
    assert judge.refused(case) == ("dtype_unsupported", {"experts", "dtype"})
    case = PLAIN.replace(num_experts=1)
    code, axes = judge.refused(case)
    assert code == "top_k_exceeds_experts"
    assert {"top_k", "num_experts"} <= axes
    assert len(axes) <= 4
    assert judge.refused(PLAIN) is None


def test_auto_is_decided_by_all_axes():
    judge = DecidingJudge(planned_for("cpu"))
    case = PLAIN.replace(experts="auto", all2all="local", tp_size=2)
    assert judge.refused(case) == ("too_many_ranks", ALL)


def test_a_rule_on_the_case_itself_is_decided_by_what_it_reads():
    judge = DecidingJudge(planned_for("cpu"))
    case = PLAIN.replace(missing="act_swish")
    assert judge.refused(case) == ("activation_unsupported", {"missing"})
    code, axes = judge.refused(PLAIN.replace(router_bias=True, logits="large"))
    assert code == "logits_unsupported"
    assert {"logits", "router_bias"} <= axes <= ALL - {"experts", "m", "dp_size"}


def test_a_rule_that_asks_for_the_layout_is_decided_by_its_axes_and_not_by_all():
    judge = DecidingJudge(planned_for("cpu"))
    layout = {"dp_size", "pcp_size", "tp_size", "use_ep", "sequence_parallel", "moe_tp_size"}
    layout |= {"expert_dp_size"}
    assert judge.refused(PLAIN.replace(moe_tp_size=2)) == ("moe_tp_impossible", layout)
    code, axes = judge.refused(PLAIN.replace(exact=True, quant="fp8_tensor", tp_size=3, n=100))
    assert code == "exact_unsupported"
    assert axes <= layout | {"exact", "gate", "quant", "n", "activation"}


def test_a_reason_that_no_known_rule_gives_is_decided_by_all_axes(monkeypatch):
    monkeypatch.setattr("harness.plan.decided.RULES", ())
    case = PLAIN.replace(missing="act_swish")
    assert DecidingJudge(planned_for("cpu")).refused(case) == ("activation_unsupported", ALL)


def test_a_member_that_no_table_has_is_a_usage_error_with_the_case():
    with pytest.raises(UsageError, match=r"case m:4-.*no experts backend is called 'triton2'"):
        DecidingJudge(planned_for("cpu")).refused(PLAIN.replace(experts="triton2"))


def test_each_function_that_gives_needs_is_listed():
    functions = {
        value
        for name, value in vars(row_needs).items()
        if getattr(value, "__annotations__", {}).get("return") == "tuple[Need, ...]"
    }
    asked = {f for f in functions if not f.__name__.startswith("_")}
    assert asked - {row_needs.installed_experts} <= set(ASKED_BY)
