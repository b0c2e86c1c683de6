"""Layouts share out experts, columns and tokens without loss; needs say the first that fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.layout import Layout, chunk
from moe.placement import linear
from moe.spec import (
    ANY,
    FLOAT32_LOSS,
    Needs,
    Numerics,
    Platform,
    Problem,
    Reason,
    Row,
    Scheme,
    problem_refusal,
)

CHIP = Platform(name="chip", device="cuda", features=frozenset({"cuda", "sm90"}))
layouts = st.builds(
    Layout, dp_size=st.integers(1, 5), tp_size=st.integers(1, 5), use_ep=st.booleans()
)


def problem(**fields):
    plain = {"m": 4, "hidden": 128, "intermediate": 256, "num_experts": 8, "top_k": 2}
    return Problem(**{**plain, **fields})


@given(st.integers(0, 200), st.integers(1, 20))
def test_chunks_cover_everything_once_and_evenly(total, parts):
    pieces = [chunk(total, parts, i) for i in range(parts)]
    assert [x for piece in pieces for x in piece] == list(range(total))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(layouts)
def test_ranks_count_tp_first(layout):
    for rank in range(layout.world_size):
        assert rank == layout.dp_rank(rank) * layout.tp_size + layout.tp_rank(rank)
        assert layout.tp_rank(rank) < layout.tp_size


@given(layouts, st.integers(1, 64))
def test_either_experts_or_columns_are_shared_out(layout, size):
    ranks = range(layout.world_size)
    placement = linear(layout, size)
    experts = [e for rank in ranks for e in placement.experts_of(layout.ep_rank(rank))]
    columns = [c for rank in ranks for c in layout.intermediate_of(rank, size)]
    once, everywhere = list(range(size)), list(range(size)) * layout.world_size
    assert experts == (once if layout.use_ep else everywhere)
    assert columns == (everywhere if layout.use_ep else once)


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_every_token_is_held(dp_size, tp_size, split, data):
    counts = tuple(data.draw(st.lists(st.integers(0, 9), min_size=dp_size, max_size=dp_size)))
    layout = Layout(dp_size=dp_size, tp_size=tp_size, use_ep=True, sequence_parallel=split)
    for dp_rank, count in enumerate(counts):
        ranks = [r for r in range(layout.world_size) if layout.dp_rank(r) == dp_rank]
        held = [list(layout.tokens_of(rank, counts)) for rank in ranks]
        if split:
            assert [t for tokens in held for t in tokens] == list(range(count))
        else:
            assert held == [list(range(count))] * tp_size


def test_shard_sizes_are_per_rank():
    uneven = problem(intermediate=10, layout=Layout(tp_size=4))
    assert uneven.shard_sizes == (3, 3, 2, 2)
    assert problem(layout=Layout(tp_size=4, use_ep=True)).shard_sizes == (256,) * 4


@pytest.mark.parametrize(
    ("needs", "fields", "code", "text"),
    [
        (
            Needs(features=frozenset({"cuda", "rocm", "fp8_e4m3fnuz"})),
            {},
            "platform_lacks_feature",
            "needs fp8_e4m3fnuz, rocm, which chip does not have",
        ),
        (
            Needs(dtypes=frozenset({"bf16", "fp16"})),
            {"dtype": "f32"},
            "dtype_unsupported",
            "takes dtype bf16, fp16, not f32",
        ),
        (
            Needs(formats=frozenset({("fp8_block", "fp8_group")})),
            {},
            "weight_format_unsupported",
            "takes weight_format fp8_block, not model",
        ),
        (
            Needs(formats=frozenset({("model", "model"), ("fp8_tensor", "fp8_static")})),
            {"scheme": Scheme(weights="model", activations="fp8_static")},
            "activation_format_unsupported",
            "takes model weights with activation_format model, not fp8_static",
        ),
        (
            Needs(max_world=1),
            {"layout": Layout(tp_size=2)},
            "too_many_ranks",
            "serves at most 1 rank(s), not 2",
        ),
        (
            Needs(hidden_multiple=16),
            {"hidden": 100},
            "size_not_multiple",
            "hidden size 100 is not a multiple of 16",
        ),
        (
            Needs(shard_multiple=8),
            {"intermediate": 36, "layout": Layout(tp_size=4)},
            "size_not_multiple",
            "intermediate size 9 is not a multiple of 8",
        ),
        (
            Needs(packages=("json", "no_such_package")),
            {},
            "package_missing",
            "package 'no_such_package' is not installed",
        ),
        (Needs(probe=f"{__name__}:says_no"), {}, "probed", "because"),
    ],
)
def test_a_need_that_does_not_hold_is_named(needs, fields, code, text):
    reason = needs.refusal(problem(**fields), CHIP)
    assert reason.code == code
    assert text in reason.text


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dtype": "fp16"}, "dtype_unsupported"),
        ({"scheme": Scheme(weights="model", activations="int8_token")}, "activation_format_"),
        ({"scheme": Scheme(weights="fp8_tensor", activations="model")}, "weight_format_"),
    ],
)
def test_a_capability_that_is_not_named_is_not_supported(fields, code):
    assert Needs().refusal(problem(), CHIP) is None
    assert Needs().refusal(problem(**fields), CHIP).code.startswith(code)


def says_no(problem, platform):
    return Reason(code="probed", text="because")


def says_yes(problem, platform):
    return None


def test_needs_that_hold_refuse_nothing():
    anything = Needs(dtypes=ANY, formats=ANY)
    odd = Scheme(weights="of another package", activations="fp8_static")
    assert anything.refusal(problem(dtype="f32", scheme=odd), CHIP) is None
    needs = Needs(
        features=frozenset({"cuda"}),
        dtypes=frozenset({"bf16"}),
        formats=frozenset({("model", "model")}),
        hidden_multiple=128,
        shard_multiple=128,
        max_world=2,
        packages=("json",),
        probe=f"{__name__}:says_yes",
    )
    assert needs.refusal(problem(layout=Layout(tp_size=2)), CHIP) is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"top_k": 9}, "top_k_exceeds_experts"),
        ({"layout": Layout(sequence_parallel=True, use_ep=True)}, "sp_needs_ep_and_tp"),
        ({"layout": Layout(sequence_parallel=True, tp_size=2)}, "sp_needs_ep_and_tp"),
        ({"intermediate": 3, "layout": Layout(tp_size=4)}, "empty_shard"),
    ],
)
def test_impossible_problems_are_refused_for_everybody(fields, code):
    assert problem_refusal(problem(**fields)).code == code


def test_ranks_without_experts_are_no_reason_to_refuse():
    assert problem_refusal(problem(num_experts=2, layout=Layout(dp_size=4, use_ep=True))) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gemm1": "bf16"}, "gemm1 is 'bf16'; it must be f32 or model"),
        ({"combine": ""}, "combine is ''; it must be f32 or model"),
        (
            {"accumulation": float("nan")},
            "accumulation is nan; it must be from 0 to ",
        ),
        ({"accumulation": 0.005}, "accumulation is 0.005; .* from 0 to 2.*, at most that of bf16"),
        ({"accumulation": -(2.0**-9)}, "accumulation is -0.001953125; "),
        ({"promoted": 0}, "promoted is 0; it counts terms: at least 1, or None"),
    ],
)
def test_numerics_that_no_reference_could_follow_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Numerics(**fields)


def test_a_kind_that_no_layer_can_compose_is_refused():
    with pytest.raises(ValueError, match="row 'mine' is of kind 'fused'; choose from modular"):
        Row(name="mine", target="x:Y", kind="fused")


def test_a_cpu_loses_what_float32_does_whatever_a_chip_s_units_lose():
    short = Numerics(gemm1="model", accumulation=2.0**-15.5, promoted=128, aligned=(32, 13))
    row = Row(name="x", target="m:C", numerics_of={"fp8_static": short})
    scheme = Scheme(weights="fp8_tensor", activations="fp8_static")
    assert row.numerics_for(scheme, "cuda") == short
    assert row.numerics_for(scheme, "cpu") == Numerics(gemm1="model", accumulation=FLOAT32_LOSS)
    plain = Scheme(weights="model", activations="model")
    assert row.numerics_for(plain, "cpu") == row.numerics_for(plain, "cuda") == Numerics()
    slow = Row(name="y", target="m:C", numerics=Numerics(accumulation=2.0**-9))  # its own sums
    assert slow.numerics_for(scheme, "cpu") == slow.numerics
