"""Mistakes that only some values show: a group of zeros, values beyond a range, equal logits."""

from __future__ import annotations

import torch

from moe.formats import FORMATS
from moe.kernels import quantize, rounding
from moe.quant.fp8_tensor import Fp8TensorStatic
from moe.types import Activations, Routing
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_routing import chosen

NAN_CODE = 0x7F  # of e4m3
LAST_TIE = 464  # halfway between 448 and the code after it, which is NaN
FLOAT32 = {"dtype": "f32", "experts": "torch_loop"}


@mistake("scale of zeros", "kernels-community #681", "says:NaN", quant="fp8_block", n=128, k=256)
def scale_of_a_zero_group_not_guarded(patch):
    """0 / 0."""
    patch.setattr(
        rounding, "scale_torch", lambda amax, kind: amax.float() * (1 / rounding.MAX[kind])
    )


@mistake("missing clamp", "transformers #42775", "overflow_to_nan", quant="fp8_tensor", n=128)
def inputs_beyond_the_range_cast_without_a_clamp(patch):
    """What the cast makes of them where the hardware does not saturate."""

    def cast(real, self, x, scale):
        found = real(self, x, scale)
        codes = found.codes.view(torch.uint8).clone()
        codes[(x.float() / scale).abs() > LAST_TIE] = NAN_CODE
        return found.replace(codes=codes.view(found.codes.dtype))

    around(patch, Fp8TensorStatic, "quantize_input", cast)
    real = quantize.quantize_tensor_torch
    patch.setattr(
        Fp8TensorStatic,
        "quantize_intermediate",
        lambda self, h, scale: Activations(
            codes=real(h, scale, "fp8"), scale=scale, format=FORMATS["fp8_static"]
        ),
    )


@mistake("equal logits", "aiter #1716", "says:routing: .* leave out a better expert", exact=True)
def all_equal_logits_taken_out_at_once(patch):
    """A search for the largest, k times; what was found is taken out by its value."""

    def search(real, logits, k, renormalize):
        left, found = logits.float(), []
        for _ in range(k):
            found.append(left.argmax(dim=1, keepdim=True))
            left = left.masked_fill(left == left.gather(1, found[-1]), -torch.inf)
        ids = torch.cat(found, dim=1)
        weights = torch.softmax(logits.float(), dim=-1).gather(1, ids)
        if renormalize:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return Routing(topk_ids=ids.int(), topk_weights=weights)

    chosen(patch, search)


@mistake(
    "router in a narrow dtype",
    "SGLang #33764",
    "says:routing: .* leave out a better expert",
    m=64,  # so many that some choice always changes
    **FLOAT32,
)
def experts_chosen_by_logits_in_bf16(patch):
    """The weights are those of the logits as they are."""

    def narrow(real, logits, k, renormalize):
        ids = real(logits.bfloat16(), k, renormalize=renormalize).topk_ids
        weights = torch.softmax(logits, dim=-1).gather(1, ids.long())
        if renormalize:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return Routing(topk_ids=ids, topk_weights=weights)

    chosen(patch, narrow)


@mistake(
    "router in a narrow dtype", "SGLang #33764", "says:routing: .* wrong weights", m=4, **FLOAT32
)
def router_weights_from_logits_in_bf16(patch):
    def narrow(real, logits, k, renormalize):
        ids = real(logits, k, renormalize=renormalize).topk_ids
        weights = torch.softmax(logits.bfloat16().float(), dim=-1).gather(1, ids.long())
        if renormalize:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return Routing(topk_ids=ids, topk_weights=weights)

    chosen(patch, narrow)
