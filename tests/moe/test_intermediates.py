"""What stages hand out while somebody records, and that nothing is kept otherwise."""

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
