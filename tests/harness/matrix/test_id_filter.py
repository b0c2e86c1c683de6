"""`-k` expressions over case ids: what matches, and what cannot be read."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.matrix.id_filter import matcher

IDS = [
    "m:8-n:64-experts:triton-dp:2-ep",
    "m:80-n:64-experts:torch_loop",
    "m:8-n:96-quant:fp8_block",
]
A, B, C = IDS


def matched(text):
    return [case_id for case_id in IDS if matcher(text)(case_id)]


def test_words_operators_and_parentheses():
    for text, expected in {
        "m:8": [A, B, C],
        "m:8-": [A, C],
        "TRITON": [A],
        "triton or fp8_block": [A, C],
        "not triton": [B, C],
        "not not triton": [A],
        "m:8- and not triton": [C],
        # `not` binds most, `or` least
        "not triton and m:8- or torch_loop": [B, C],
        "not (triton or m:80)": [C],
        "not(triton)and(n:64)": [B],
        "dp:2-ep": [A],
        "nothing": [],
    }.items():
        assert matched(text) == expected, text


def test_a_word_may_be_a_whole_id_or_contain_an_operator():
    for case_id in IDS:
        assert case_id in matched(case_id)
    assert matched("torch_loop and n:64-experts") == [B]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "-k '', at its end: a word, `not` or `(` is missing"),
        ("triton and", "at its end: a word, `not` or `(` is missing"),
        ("triton fp8", "column 8: expected an operator, not 'fp8'"),
        ("and triton", "column 1: expected a word, `not` or `(`, not 'and'"),
        ("(triton", "at its end: `)` is missing"),
        ("triton)", "column 7: expected an operator, not ')'"),
        ("()", "column 2: expected a word"),
        ("triton &&  fp8", "column 8: '&' is in no case id"),
        ("tri*", "column 4: '*' is in no case id; write words of case ids with and, or, not"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_column(text, message):
    with pytest.raises(UsageError) as caught:
        matcher(text)
    assert message in str(caught.value)
