"""Four-bit words of checkpoints by hand-made examples."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.quant.checkpoint_layouts import AWQ, AWQ_ORDER, GPTQ, IN_ORDER, codes_of, words
from moe.quant.grouped import quantize_experts


@pytest.mark.parametrize(
    ("order", "word"), [(IN_ORDER, 0x76543210), (AWQ_ORDER, 0x75316420)], ids=["gptq", "awq"]
)
def test_a_word_has_eight_codes_in_its_order(order, word):
    codes = torch.arange(8)[None]
    assert words(codes, order).tolist() == [[word]]
    assert codes_of(words(codes, order), order).tolist() == codes.tolist()


def test_the_highest_code_makes_a_word_negative():
    assert words(torch.tensor([[0, 0, 0, 0, 0, 0, 0, 15]]), IN_ORDER).tolist() == [[-(1 << 28)]]


@pytest.mark.parametrize(
    ("layout", "name", "shape"),
    [(GPTQ, "int4_g32", (3, 8, 16)), (AWQ, "int4_zp_g32", (3, 64, 2)), (GPTQ, "int4_zp_g32", None)],
)
def test_what_is_stored_is_loaded(layout, name, shape):
    torch.manual_seed(0)
    w = quantize_experts(torch.randn(3, 16, 64), FORMATS[name])
    stored = layout.store(w)
    if shape is not None:
        assert stored.qweight.shape == shape
    assert stored.scales.shape == (3, 2, 16)
    assert stored.qzeros.shape == (3, 2, 2)
    loaded = layout.load(stored, w.format)
    assert torch.equal(loaded.codes, w.codes)
    assert torch.equal(loaded.scale, w.scale)
    assert (w.zero_point is None) or torch.equal(loaded.zero_point, w.zero_point)


def test_gptq_stores_symmetric_weights_with_the_zero_point_eight_as_seven():
    w = quantize_experts(torch.ones(1, 8, 32), FORMATS["int4_g32"])
    assert GPTQ.store(w).qzeros.tolist() == [[[0x77777777]]]
    assert GPTQ.store(w).qweight[0, 0, 0].item() == -1, "eight codes of 7, stored as 15"


def test_sizes_that_are_no_whole_words_are_refused():
    w = quantize_experts(torch.ones(1, 6, 32), FORMATS["int4_g32"])
    with pytest.raises(MoEError, match="6 outputs of a matrix do not fill words of 8 codes; pad"):
        GPTQ.store(w)
