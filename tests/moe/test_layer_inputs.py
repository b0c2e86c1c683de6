"""Bad input of a layer is an error that names the tensor, the value, the rule and the way out."""

from __future__ import annotations

import re

import pytest
import torch

from moe.errors import MoEError
from moe.layer_inputs import check_tokens
from moe.spec import LayerSpec

SPEC = LayerSpec(m=3, hidden=64, intermediate=32, num_experts=4, top_k=2)
X, LOGITS = torch.ones(3, 64, dtype=torch.bfloat16), torch.ones(3, 4)
BAD = {
    "one row too few dimensions": (X[0], LOGITS, "x has shape [64]; the layer takes [T, 64]: "),
    "a batch of sequences": (X[None], LOGITS, "x has shape [1, 3, 64]; the layer takes [T, 64]: "),
    "another hidden size": (X[:, 1:], LOGITS, "x has shape [3, 63]; the layer takes [T, 64]: "),
    "another dtype": (X.float(), LOGITS, "x is float32; the layer takes bfloat16: "),
    "too few experts": (X, LOGITS[:, 1:], "router logits have shape [3, 3]; for 3 rows of x and 4"),
    "too few tokens": (X, LOGITS[1:], "router logits have shape [2, 4]; for 3 rows of x and 4 exp"),
    "integer logits": (X, LOGITS.int(), "router logits are int32; they must be of a float dtype: "),
    "another device": (X, LOGITS.to("meta"), "router logits are on meta and x is on cpu: move bot"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tokens_are_refused(name):
    x, logits, message = BAD[name]
    with pytest.raises(MoEError, match=re.escape(message)):
        check_tokens(SPEC, x, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_good_tokens_pass(tokens, dtype):
    check_tokens(SPEC, X[:tokens], LOGITS[:tokens].to(dtype))


@pytest.mark.parametrize("is_padding", [torch.zeros(2, dtype=torch.bool), torch.zeros(3)])
def test_padding_is_one_flag_a_row(is_padding):
    with pytest.raises(MoEError, match=r"it must be \[3\] bool: pass one flag for each row of x"):
        check_tokens(SPEC, X, LOGITS, is_padding)


def test_a_layer_with_a_gate_gets_no_logits():
    check_tokens(SPEC, X, None, torch.zeros(3, dtype=torch.bool))
