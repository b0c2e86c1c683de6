"""What stages hand out while somebody records, and that nothing is kept otherwise."""

import pytest
import torch

from moe import intermediates


def test_experts_cannot_hand_out_another_input_than_they_were_given():
    given, made = torch.ones(2), torch.zeros(2)
    with intermediates.recording() as kept:
        for value in (given, made):
            intermediates.keep("ids", value)
            intermediates.keep("gemm2", value)
    assert torch.equal(kept["ids"].value, given)
    assert torch.equal(kept["gemm2"].value, made)


def test_what_is_kept_is_a_copy_unless_its_maker_says_that_it_is_fresh():
    value, rows = torch.ones(2), torch.arange(2)
    with intermediates.recording() as kept:
        intermediates.keep("gemm1", value, rows=rows)
        intermediates.keep("gemm2", value, copy=False)
        value.zero_()
        rows.zero_()
    assert kept["gemm1"].value.tolist() == [1, 1]
    assert kept["gemm1"].rows.tolist() == [0, 1]
    assert kept["gemm2"].value is value


def test_stages_of_several_calls_are_recorded_as_those_of_one():
    """Two ranks have three and two tokens, of which two pass at a time, with k = 2."""
    parts = []
    for tokens, flat in (([0, 3, -1], [0, 3]), ([0], [1])):
        with intermediates.recording() as part:
            intermediates.keep("tokens", torch.tensor(tokens, dtype=torch.int32))
            intermediates.keep("ids", torch.zeros(len(tokens), 2, dtype=torch.int32))
            intermediates.keep("input_scale", torch.tensor(0.5))
            intermediates.keep("gemm1", torch.tensor(flat)[:, None], rows=torch.tensor(flat))
        parts.append(part)
    counts = [[2, 2], [1, 0]]
    with intermediates.recording() as kept:
        intermediates.keep_joined(parts, counts)
    # The last token of the first call is the second rank's second one; of all it is the fifth.
    assert kept["tokens"].value.tolist() == [0, 4, -1, 2]
    assert kept["ids"].value.shape == (4, 2)
    assert kept["input_scale"].value.item() == 0.5
    assert kept["gemm1"].rows.tolist() == [0, 3, 7]
    del parts[1]["gemm1"]  # as of a backend that records nothing where it has no row
    with intermediates.recording() as kept:
        intermediates.keep_joined(parts, counts)
    assert kept["gemm1"].rows.tolist() == [0, 3]
    intermediates.keep_joined(parts, counts)  # while nobody records


def test_nothing_is_kept_while_nobody_records():
    intermediates.keep("gemm1", torch.ones(2))
    with intermediates.recording() as kept:
        assert kept == {}
        intermediates.keep("second_scale", None)
        assert kept == {}, "a scale that there is not"
    intermediates.keep("gemm1", torch.ones(2))
    assert kept == {}


def test_the_last_value_of_a_stage_wins():
    with intermediates.recording() as kept:
        for number in (1.0, 2.0):
            intermediates.keep("combine", torch.tensor(number))
    assert kept["combine"].value.item() == 2.0
    assert kept["combine"].rows is None


def test_a_recording_inside_another_leaves_it_as_it_was():
    with intermediates.recording() as outer:
        with intermediates.recording() as inner:
            intermediates.keep("gemm1", torch.ones(1))
        with pytest.raises(AssertionError), intermediates.recording():
            intermediates.keep("gemm3", torch.ones(1))
        intermediates.keep("gemm2", torch.ones(1))
    assert (list(inner), list(outer)) == (["gemm1"], ["gemm2"])


def test_an_unknown_stage_is_named():
    with (
        intermediates.recording(),
        pytest.raises(AssertionError, match="no stage is called 'gemm3'"),
    ):
        intermediates.keep("gemm3", torch.ones(1))
