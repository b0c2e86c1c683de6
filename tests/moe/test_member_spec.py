"""Rows: what they may say, where they round, and which of them can be joined."""

import pytest

from moe.spec import (
    BATCHED,
    FLOAT32_LOSS,
    STANDARD,
    MemberSpec,
    Needs,
    Numerics,
    Scheme,
    dispatch_refusal,
)


def test_a_kind_that_no_layer_can_compose_is_refused():
    with pytest.raises(ValueError, match="row 'mine' is of kind 'fused'; choose from modular"):
        MemberSpec(name="mine", target="x:Y", kind="fused")


def test_only_a_monolithic_row_names_routers_and_it_must():
    with pytest.raises(ValueError, match="'mine' is monolithic: name the routers that it computes"):
        MemberSpec(name="mine", target="x:Y", kind="monolithic")
    needs = Needs(routers=frozenset({"softmax"}))
    assert MemberSpec(name="mine", target="x:Y", kind="monolithic", needs=needs).needs is needs
    with pytest.raises(ValueError, match="'mine' is given its routing: leave `routers` out"):
        MemberSpec(name="mine", target="x:Y", needs=needs)


def test_logits_travel_only_with_an_all2all_that_says_so():
    needs = Needs(routers=frozenset({"softmax"}))
    routes = MemberSpec(name="routes", target="x:Y", kind="monolithic", needs=needs)
    sends, carries = (
        MemberSpec(name=f"a2a{flag}", target="x:Y", carries_logits=flag) for flag in (False, True)
    )
    assert dispatch_refusal(routes, carries) is None
    reason = dispatch_refusal(routes, sends)
    assert reason.code == "logits_not_carried"
    assert reason.text == (
        "routes routes by itself (kind monolithic), and a2aFalse does not say `carries_logits`; "
        "choose an all2all backend that brings every token to every rank"
    )


def test_standard_experts_take_blocks_only_if_rows_may_be_padding():
    batched, standard = (
        MemberSpec(name=name, target="x:Y", dispatch_format=name) for name in (BATCHED, STANDARD)
    )
    assert dispatch_refusal(batched, standard) is None
    reason = dispatch_refusal(standard, batched)
    assert reason.code == "padding_unsupported"
    assert reason.text.startswith("batched hands out blocks with rows that are not in use, and ")
    padded = MemberSpec(name="padded", target="x:Y", needs=Needs(padding=True))
    assert dispatch_refusal(padded, batched) is None


def test_a_cpu_loses_what_float32_does_whatever_a_chip_s_units_lose():
    short = Numerics(gemm1="model", accumulation=2.0**-15.5, promoted=128, aligned=(32, 13))
    row = MemberSpec(name="x", target="m:C", numerics_of={"fp8_static": short})
    scheme = Scheme(weights="fp8_tensor", activations="fp8_static")
    assert row.numerics_for(scheme, "cuda") == short
    assert row.numerics_for(scheme, "cpu") == Numerics(gemm1="model", accumulation=FLOAT32_LOSS)
    plain = Scheme(weights="model", activations="model")
    assert row.numerics_for(plain, "cpu") == row.numerics_for(plain, "cuda") == Numerics()
    slow = MemberSpec(
        name="y", target="m:C", numerics=Numerics(accumulation=2.0**-9)
    )  # its own sums
    assert slow.numerics_for(scheme, "cpu") == slow.numerics


def test_members_must_speak_one_dispatch_format():
    standard, lists = (
        MemberSpec(name=name, target="x:Y", dispatch_format=name) for name in ("standard", "lists")
    )
    assert dispatch_refusal(lists, lists) is None
    reason = dispatch_refusal(standard, lists)
    assert reason.code == "dispatch_format_mismatch"
    assert reason.text.startswith("standard takes the dispatch_format standard, ")
    assert reason.text.endswith(" lists; choose two that name the same")
