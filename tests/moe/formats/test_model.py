"""Values in the layer's own dtype are their own codes."""

import torch

from moe.formats import FORMATS


def test_values_stay_as_they_are():
    codec = FORMATS["model"].codec
    x = torch.tensor([1.5, -2.0]).bfloat16()
    assert codec.dtype is None
    assert codec.encode(x) is x
    assert torch.equal(codec.decode(x), x.float())
