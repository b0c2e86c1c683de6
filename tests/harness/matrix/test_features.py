"""What no case can say yet is refused with a stable code and a sentence for each word."""

import re

import pytest

from harness.matrix.features import FEATURES, NAMED, NOTHING, joined, missing_reason
from moe.errors import MoEError

CODES = {
    *("router_unsupported", "activation_unsupported", "quant_unsupported"),
}


def test_a_case_that_lacks_nothing_is_not_refused():
    assert joined([]) == NOTHING
    assert missing_reason(NOTHING) is None


@pytest.mark.parametrize("word", [*FEATURES, "act_relu2", "quant_mxfp4", "scoring_sqrt_softplus"])
def test_each_word_has_a_code_and_a_sentence_and_fits_an_id(word):
    reason = missing_reason(joined([word]))
    assert reason.code in CODES
    assert reason.text.startswith("no case can say yet: ")
    assert re.fullmatch(r"[a-z0-9_]+", word)


def test_the_codes_are_those_that_are_promised():
    assert {code for code, _ in FEATURES.values()} | {row[0] for row in NAMED.values()} == CODES


def test_the_first_word_gives_the_code_and_all_words_the_text():
    reason = missing_reason(joined(["act_relu2", "router_groups"]))
    assert reason.code == "activation_unsupported"
    assert reason.text == (
        "no case can say yet: the activation function is relu2, which is not a row of "
        "moe.activations; the router ranks groups of experts by their best expert, not by the sum "
        "of their two best"
    )


@pytest.mark.parametrize(
    "value", ["router", "act_", "router_groups.x", "router_groups..act_x", "_"]
)
def test_an_unknown_word_is_an_error_that_lists_the_known(value):
    with pytest.raises(MoEError, match=r"no feature is called '.*known: router_groups, .*act_NAME"):
        missing_reason(value)
