"""Members as another package would bring them: a class with a `row`, and rows for entry points."""

from __future__ import annotations

import torch

from moe.all2all.base import PrepareFinalize
from moe.experts.base import Experts
from moe.quant import QuantSpec
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.quant.int8_channel import Int8Channel
from moe.spec import ANY, MemberSpec, Needs, Scheme
from moe.types import Dispatched


class TokenByToken(Experts):
    """One token and one slot after another."""

    row = MemberSpec(
        name="token_by_token",
        target="tests.moe.outside_members:TokenByToken",
        needs=Needs(formats=ANY, hidden_multiple=2),
    )

    def prepare_weights(self, weights):
        self.w13 = dequantize_weight(weights.gate_up)
        self.w2 = dequantize_weight(weights.down)
        self.a2_scale = weights.a2_scale

    def apply(self, x, routing):
        values = dequantize_activations(x)
        out = torch.zeros(values.shape)
        for token, slot in (routing.topk_ids >= 0).nonzero().tolist():
            e = int(routing.topk_ids[token, slot])
            h = self.activate(*(self.w13[e] @ values[token]).chunk(2))[None]
            h = dequantize_activations(self.quant.quantize_intermediate(h, self.a2_scale))
            out[token] += routing.topk_weights[token, slot] * (self.w2[e] @ h[0])
        return out.to(self.dtype)

    def activate(self, gate, up):
        return torch.nn.functional.silu(gate) * up


class UpFirst(TokenByToken):
    """The same, with gate and up the wrong way round."""

    row = MemberSpec(name="up_first", target="tests.moe.outside_members:UpFirst")

    def activate(self, gate, up):
        return super().activate(up, gate)


class Alone(PrepareFinalize):
    row = MemberSpec(
        name="alone", target="tests.moe.outside_members:Alone", needs=Needs(max_world=1)
    )

    def prepare(self, x, routing):
        return Dispatched(x=x, routing=routing, counts=(len(x.codes),))

    def finalize(self, partial, dispatched):
        return partial


class SignedBytes(Int8Channel):
    """int8_channel under another name."""

    row = QuantSpec(
        name="signed_bytes",
        target="tests.moe.outside_members:SignedBytes",
        scheme=Scheme(weights="int8_channel", activations="int8_token", weight_bytes=1),
    )


OUTSIDE = TokenByToken.row  # what an entry point names
CLASH = MemberSpec(name="torch_loop", target="tests.moe.outside_members:TokenByToken")
