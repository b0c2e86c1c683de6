"""Define the rows of experts of training and inference frameworks. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from moe import released
from moe.spec import ANY, MemberSpec, Needs
from moe.stated_numerics import EVERY_STEP, ROUNDED

_TRANSFORMERS = Needs(
    dtypes=ANY,
    activation_functions=frozenset(released.ACTIVATION_NAMES),
    moe_tp=True,
    packages=(released.TRANSFORMERS_EXPERTS,),
)
_SGLANG = Needs(
    dtypes=ANY,
    probe="moe.released:holds_all_experts",
    packages=(released.SGLANG_EXPERTS,),
)
_TORCHAO = Needs(
    formats=frozenset({("mxfp8", "mxfp8"), ("mxfp4", "mxfp4")}),
    activation_functions=ANY,  # calls the layer's own activation function
    layer_features=frozenset({"latent"}),
    padding=True,
    moe_tp=True,
    hidden_multiple=32,
    shard_multiple=32,
    packages=(released.TORCHAO,),
)
ROWS = (
    MemberSpec(
        name="transformers_eager",
        target="moe.experts.transformers_experts:TransformersEager",
        needs=replace(_TRANSFORMERS, probe="moe.released:eager_experts_know_the_sentinel"),
        numerics=replace(EVERY_STEP, weighted="model", combine="model"),
        deterministic=True,
    ),
    MemberSpec(
        name="transformers_batched_mm",
        target="moe.experts.transformers_experts:TransformersBatchedMM",
        needs=_TRANSFORMERS,
        numerics=EVERY_STEP,
        deterministic=True,
    ),
    MemberSpec(
        name="transformers_grouped_mm",
        target="moe.experts.transformers_experts:TransformersGroupedMM",
        needs=replace(
            _TRANSFORMERS, dtypes=frozenset({"bf16"}), hidden_multiple=8, shard_multiple=8
        ),
        numerics=EVERY_STEP,
        deterministic=True,
    ),
    MemberSpec(
        name="torchtitan",
        target="moe.experts.torchtitan_experts:TorchtitanExperts",
        needs=Needs(
            packages=(released.TORCHTITAN_EXPERTS,),
            moe_tp=True,
            hidden_multiple=8,
            shard_multiple=8,
        ),
        numerics=replace(EVERY_STEP, weighted="model"),
        deterministic=True,
    ),
    MemberSpec(
        name="sglang_loop",
        target="moe.experts.sglang_experts:SglangLoop",
        needs=_SGLANG,
        numerics=EVERY_STEP,
        deterministic=True,
    ),
    MemberSpec(
        name="sglang_gathered",
        target="moe.experts.sglang_experts:SglangGathered",
        needs=_SGLANG,
        numerics=replace(EVERY_STEP, weight_dtype="model"),
        deterministic=True,
    ),
    MemberSpec(
        name="torchao_mx",
        target="moe.experts.torchao_experts:TorchaoMX",
        needs=_TORCHAO,
        numerics=ROUNDED,  # a code times a power of two is exact in bf16
        deterministic=True,
    ),
)
