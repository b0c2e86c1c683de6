"""Expected values, products to sum up, and the text of a refusal."""

from __future__ import annotations

import pytest
import torch

from harness import assert_close

GENERATOR = torch.Generator().manual_seed(3)
EXPECTED = torch.randn(40, 512, generator=GENERATOR) * torch.rand(512, generator=GENERATOR)
RIGHT = EXPECTED.bfloat16()
X = torch.randn(16, 1024, generator=GENERATOR)
W = torch.randn(1024, 96, generator=GENERATOR)
PRODUCT = X.double() @ W.double()


def refused(actual: torch.Tensor, expected: torch.Tensor = EXPECTED, **options: object) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_close(actual, expected, **options)
    text = str(caught.value)
    assert max(map(len, text.splitlines())) < 250
    return text
