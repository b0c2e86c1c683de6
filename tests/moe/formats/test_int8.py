"""int8 codes by hand-made examples."""

import torch

from moe.formats import FORMATS

INT8 = FORMATS["int8_channel"]


def test_int8_codes_round_to_even_and_saturate():
    values = [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 128.0, -128.0, 1e30]
    wanted = [0, 0, 2, 2, 0, -2, 127, 127, 127, -127, 127]
    assert INT8.codec.encode(torch.tensor(values)).tolist() == wanted


def test_every_code_stands_for_itself():
    codes = torch.arange(-127, 128, dtype=torch.int8)
    values = INT8.codec.decode(codes)
    assert values.tolist() == list(range(-127, 128))
    assert torch.equal(INT8.codec.encode(values), codes)
    assert float(values.max()) == INT8.top
