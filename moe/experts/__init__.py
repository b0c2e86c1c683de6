"""The experts backends: the support table. One row a backend, one file a backend."""

from __future__ import annotations

from moe.registry import Registry
from moe.spec import Needs, Numerics, Row

EXPERTS: Registry[Row] = Registry(
    "experts",
    (
        Row(
            name="triton",
            target="moe.experts.triton:TritonExperts",
            needs=Needs(
                features=frozenset({"triton"}),
                dtypes=frozenset({"bf16", "fp16"}),
                weights=frozenset({"model", "fp8_tensor", "fp8_block", "int8_channel"}),
                activations=frozenset({"model", "fp8_static", "fp8_dynamic", "fp8_group", "int8_token"}),
                packages=("triton",),
            ),
            numerics=Numerics(gemm1="model", activation="model", expert="model", accumulation=2.0**-18),
        ),
        Row(
            name="flashinfer_cutlass",
            target="moe.experts.flashinfer_cutlass:FlashInferCutlassExperts",
            needs=Needs(
                features=frozenset({"cuda", "sm90"}),
                dtypes=frozenset({"bf16"}),
                weights=frozenset({"model", "fp8_tensor"}),
                activations=frozenset({"model", "fp8_static"}),
                hidden_multiple=8,  # 16 for fp8: the probe knows
                shard_multiple=8,
                packages=("flashinfer", "tvm_ffi"),
                probe="moe.experts.flashinfer_probe:built",
            ),
            # Those of fp8, whose fast sums lose 2**-9.5 at K = 4096. In bf16 the sums are float32's
            # and the activation is rounded too: within this bound, though not what it says.
            numerics=Numerics(gemm1="model", expert="model", accumulation=2.0**-9.5),
        ),
        Row(
            name="torch_grouped",
            target="moe.experts.torch_grouped:TorchGroupedExperts",
            needs=Needs(
                dtypes=frozenset({"bf16"}),
                weights=frozenset({"model"}),
                activations=frozenset({"model"}),
                hidden_multiple=8,  # grouped_mm wants rows of a multiple of 16 bytes
                shard_multiple=8,
            ),
            numerics=Numerics(gemm1="model", activation="model", expert="model"),
        ),
        Row(name="torch_loop", target="moe.experts.torch_loop:TorchLoopExperts"),
    ),
)
