"""fp4 e2m1 codes by hand-made examples."""

import torch

from moe.formats import FORMATS
from moe.formats.e2m1.truth import E2M1Truth
from moe.formats.nibbles import unpack

CODEC = FORMATS["mxfp4"].codec


def test_codes_round_to_even_and_saturate():
    values = [0.0, 0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.01, 6.0, 1e30]
    wanted = [0, 0, 1, 2, 2, 4, 4, 6, 6, 7, 7, 7]
    assert unpack(CODEC.encode(torch.tensor(values))).tolist() == wanted
    assert unpack(CODEC.encode(-torch.tensor(values))).tolist() == [code + 8 for code in wanted]
    assert unpack(CODEC.encode(torch.tensor([torch.nan, torch.inf]))).tolist() == [0, 7]


def test_codec_and_truth_read_every_code_alike():
    codes = torch.arange(256, dtype=torch.uint8)
    values = CODEC.decode(codes)
    assert torch.equal(values, E2M1Truth().decode(codes))
    assert values[1:32:2].tolist() == [0.0] * 16, "the low half comes first"
    assert sorted(set(values.abs().tolist())) == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert torch.equal(CODEC.encode(values), codes), "the sign of zero, too"
