"""Who reports a text: nobody is named where every failed call does, else its rank and call."""

import pytest

from harness.record.diagnosis import CallDiagnosis
from harness.report.attribution import call_name, source_suffix, sources_by_text

BOTH = [(0, 0), (0, 1), (1, 0), (1, 1)]  # (rank, call)


@pytest.mark.parametrize(
    ("sources", "failed", "suffix"),
    [
        (BOTH, BOTH, ""),
        (BOTH[::-1], BOTH, ""),
        ([(1, 0), (1, 1)], BOTH, " (rank 1)"),
        ([(1, 1)], BOTH, " (rank 1, second call)"),
        ([(0, 1), (1, 1)], BOTH, " (second call)"),
        ([(1, 1)], [(0, 0), (1, 1)], " (rank 1)"),  # its only failed call
        ([(0, 0), (1, 0), (2, 0)], [(r, 0) for r in (0, 1, 2, 5)], " (ranks 0-2)"),
        ([(0, 0), (1, 1)], BOTH, ""),  # both ranks, both calls
    ],
)
def test_only_what_tells_the_sources_apart_is_named(sources, failed, suffix):
    assert source_suffix(sources, failed) == suffix


def test_each_text_comes_once_the_most_frequent_first():
    texts = {(0, 0): ["rare", "often"], (1, 0): ["often"], (1, 1): ["often", "rare"], (2, 0): []}
    calls = [(rank, CallDiagnosis(call=number, fault=str(rank))) for rank, number in texts]
    grouped = sources_by_text(calls, lambda call: texts[int(call.fault), call.call])
    assert list(grouped.items()) == [
        ("often", [(0, 0), (1, 0), (1, 1)]),
        ("rare", [(0, 0), (1, 1)]),
    ]


def test_calls_have_names_up_to_the_third():
    names = ["first call", "second call", "third call", "call 4", "call 17"]
    assert [call_name(number) for number in (0, 1, 2, 3, 16)] == names
