"""Likely causes: what explains the most wrong rows comes first, and what explains none is said."""

from __future__ import annotations

from harness.report.failure_text import headline, lines
from tests.harness.report.failed_results import CAUSE, FACTS, call, result

STAGE = {"stage": "gemm1", "text": "1 differs", "bad": 1, "of": 8, "where": {}}


def test_causes_are_ranked_by_how_much_they_explain():
    second = {**CAUSE, "name": "b", "cause": "another", "residual": 0.02}
    partly = {**CAUSE, "name": "c", "cause": "a third", "where": "in the wrong rows only"}
    of_stage = call(causes=[second, partly], stages=[STAGE])
    later = {**STAGE, "stage": "combine"}
    ranks = {0: [call(causes=[dict(CAUSE), second], stages=[later])], 1: [of_stage]}
    said = lines(result(ranks))
    assert "likely cause: another (leaves 2 % of the error)" in said
    assert "or (rank 0): the output is doubled (leaves 0.4 % of the error)" in said
    assert "or (rank 1): a third, in the wrong rows only (leaves 0.4 % of the error)" in said


def test_what_explains_all_rows_comes_before_what_fits_in_the_wrong_ones_only():
    partly = {**CAUSE, "cause": "a third", "residual": 0.001, "where": "in the wrong rows only"}
    said = lines(result({0: [call(causes=[partly, dict(CAUSE)])]}))
    assert "likely cause: the output is doubled (leaves 0.4 % of the error)" in said
    assert "or: a third, in the wrong rows only (leaves 0.1 % of the error)" in said


def test_what_fits_in_the_wrong_rows_only_is_no_likely_cause():
    """It gives others in the right rows, too: what is alike in the wrong ones may be right."""
    partly = {**CAUSE, "where": "in the wrong rows and columns only"}
    text = "the output is doubled, in the wrong rows and columns only"
    failed = result({0: [call(causes=[partly])]})
    assert f"consistent with: {text} (leaves 0.4 % of the error)" in lines(failed)
    assert headline(failed).startswith("consistent with: the output is doubled")
    sure = {**CAUSE, "cause": "in stage gemm1 all values are halved"}
    both = {0: [call(causes=[partly])], 1: [call(causes=[partly, sure], stages=[STAGE])]}
    assert headline(result(both)).startswith("likely cause (rank 1): in stage gemm1 all values")
    order = {**CAUSE, "cause": "the weights are in the wrong order"}
    assert headline(result({0: [call(causes=[order])]})).startswith("likely cause")
    condition = {**CAUSE, "where": "for rows >= 8 only"}
    assert headline(result({0: [call(causes=[condition])]})).startswith("likely cause")


def test_no_cause_says_how_far_the_closest_was():
    ranks = {0: [call(causes=[], closest=0.8)], 1: [call(stages=[STAGE])]}
    said = lines(result(ranks))
    text = "none of 40 known mistakes gives this output; the closest leaves 80 % of the error"
    assert f"no known cause (rank 0): {text}" in said
    assert "likely cause (rank 1): the output is doubled (leaves 0.4 % of the error)" in said
    tiny = {**CAUSE, "residual": 0.0}
    assert "leaves less than 0.1 % of the error" in lines(result({0: [call(causes=[tiny])]}))[2]


def test_what_explains_the_fewer_wrong_rows_is_no_headline():
    """Here with another first wrong stage; with the same one it is no cause at all."""
    few, many = {**FACTS["rows"], "wrong": 2}, {**FACTS["rows"], "wrong": 6}
    explained = call(1, rows=few, stages=[STAGE])
    not_explained = call(0, rows=many, causes=[])
    said = [t for t in lines(result({1: [not_explained, explained]})) if "cause" in t]
    assert said[0].startswith("no known cause (first call): ")
    assert said[1].startswith("likely cause (second call): the output is doubled")
    assert headline(result({1: [not_explained, explained]})).startswith("pattern")
    explained["rows"] = {**FACTS["rows"], "wrong": 7}
    assert headline(result({1: [not_explained, explained]})).startswith("likely cause")


def test_what_other_calls_and_ranks_contradict_is_no_cause():
    few, many = {**FACTS["rows"], "wrong": 1}, {**FACTS["rows"], "wrong": 6}
    ranks = {0: [call(0, rows=many, causes=[])], 1: [call(0, rows=few)]}
    said = lines(result(ranks))
    assert not [t for t in said if t.startswith("likely cause")]
    text = "not sure, since it fits some calls or ranks only: the output is doubled"
    assert text in said
    causes = [{**CAUSE, "cause": text} for text in ("a", "b", "c")]
    ranks = {0: [call(0, rows=many, causes=[])], 1: [call(0, rows=few, causes=causes)]}
    assert "not sure, since it fits some calls or ranks only: a; b; and 1 more" in lines(
        result(ranks)
    )


def test_causes_that_were_not_tried_are_counted():
    said = lines(result({0: [call(causes=[], untried=3)], 1: [call(untried=9)]}))
    assert "time ran out before 9 of the known mistakes were tried" in said


def test_a_mistake_that_leaves_little_but_fits_no_row_is_not_called_close():
    """It was "the closest leaves less than 0.1 % of the error", below "no known cause"."""
    (text,) = [t for t in lines(result({0: [call(causes=[], closest=0.0002)]})) if "cause" in t]
    assert text.endswith("the closest does not fit every wrong row")


def test_nothing_leaves_nan_percent():
    for closest in ("nan", "inf", None):
        said = lines(result({0: [call(causes=[], closest=closest)]}))
        (text,) = [t for t in said if "cause" in t]
        assert text == "no known cause: none of 40 known mistakes gives this output"
    said = lines(result({0: [call(causes=[], closest="nan")], 1: [call(causes=[], closest=0.8)]}))
    assert "the closest leaves 80 % of the error" in "\n".join(said)
