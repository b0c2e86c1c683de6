"""List the layers that can be tested: the composed one, and whole layers of other packages.

Another package's layer is a class that derives from `moe.layers.base.LayerSubject`. It is named as
`"package.module:Class"`, or by the entry-point group `moe.layers`, whose entries name the class's
`row`. Torch-free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moe import released
from moe.errors import MoEError
from moe.layers.layer_row import OwnLayerSpec
from moe.registry import Registry
from moe.router_numerics import PLAIN, RouterNumerics
from moe.spec import Needs, Numerics

if TYPE_CHECKING:
    from moe.packages import Package

COMPOSED = "composed"  # moe.layer.FusedMoE, built from the members that a case names
OWN = "own"  # the value of `experts` in a case whose layer has its own experts


class LayerRegistry(Registry[OwnLayerSpec]):
    """Look up layers, and reject classes that are not whole layers."""

    def row(self, name: str) -> OwnLayerSpec:
        """Return `Registry.row`. Raises MoEError for a class that is not a whole layer."""
        row = super().row(name)
        if isinstance(row, OwnLayerSpec):
            return row
        raise MoEError(
            f"{name} is not a whole layer: derive it from moe.layers.base.LayerSubject, or name a "
            "backend with `--experts`"
        )


# The layers of other packages round where docs/released-backends.md says. What can be declared of
# it: both products and f(gate) * up.
_RELEASED_ROUNDS = Numerics(
    gemm1="model", activation="model", expert="model", accumulation=2.0**-22
)
# The same of an MLP that rounds at every step, and of terms that are added in float32.
_ALL_ROUND = replace(
    _RELEASED_ROUNDS,
    activated_gate="model",
    weighted="model",
    combine="f32",
    weight_on="output",
    weight_dtype="f32",
)
# Weights that are computed in float32, and returned in the dtype of the logits.
_ROUNDED_LAST = RouterNumerics(weights="logits", scaled="same")


def _transformers_block(
    name: str,
    class_name: str,
    package: Package,
    rounds: tuple[Numerics, RouterNumerics],
    *takes: str,
) -> OwnLayerSpec:
    """Return the row of a model's MoE block. rounds: its experts, and its router."""
    numerics, rounding = rounds
    return OwnLayerSpec(
        name=f"transformers_{name}",
        target=f"moe.layers.transformers_blocks:{class_name}",
        needs=Needs(
            activation_functions=frozenset(released.ACTIVATION_NAMES),
            hidden_multiple=8,  # of torch's grouped product, as in `moe.experts`
            shard_multiple=8,
            packages=(package,),
            probe="moe.released:experts_divide_evenly",
        ),
        numerics=numerics,
        rounding=rounding,
        deterministic=True,
        takes=frozenset({"tp", "ep", *takes}),
    )


def _shared_block(
    name: str,
    class_name: str,
    package: Package,
    rounds: tuple[Numerics, RouterNumerics],
    *takes: str,
) -> OwnLayerSpec:
    """Return the row of a block of `moe.layers.transformers_shared_blocks`."""
    return replace(
        _transformers_block(name, class_name, package, rounds),
        target=f"moe.layers.transformers_shared_blocks:{class_name}",
        takes=frozenset(takes),
        routers=frozenset({"sigmoid"}),
    )


_GROUPED = ("tp", "ep", "shared", "no_renorm", "bias", "groups", "scale")
_GROUPED_ROUNDS = replace(
    _RELEASED_ROUNDS,
    activated_gate="model",
    weighted="f32",
    combine="f32",
    weight_on="output",
    weight_dtype="f32",
)
_LLAMA4_ROUNDS = replace(
    _RELEASED_ROUNDS,
    activated_gate="model",
    weighted="model",
    weight_on="input",
    weight_dtype="model",
)
_LLAMA4 = _shared_block(
    *("llama4", "Llama4Block", released.LLAMA4, (_LLAMA4_ROUNDS, _ROUNDED_LAST)),
    *("tp", "shared", "no_renorm", "weights_input"),
)
_GPT_OSS = _shared_block(
    *("gpt_oss", "GptOssBlock", released.GPT_OSS, (Numerics(), _ROUNDED_LAST)), "tp", "ep"
)
_OF_QWEN = (_ALL_ROUND, _ROUNDED_LAST)
_OF_GROUPED = (_GROUPED_ROUNDS, PLAIN)
_BY_GROUPS = (
    _shared_block("deepseek_v3", "DeepseekV3Block", released.DEEPSEEK_V3, _OF_GROUPED, *_GROUPED),
    _shared_block("glm4_moe", "Glm4MoeBlock", released.GLM4_MOE, _OF_GROUPED, *_GROUPED),
)
_SHARED_BLOCKS = (
    *(
        replace(row, needs=replace(row.needs, probe="moe.released:groups_have_two_experts"))
        for row in _BY_GROUPS
    ),
    replace(_LLAMA4, needs=replace(_LLAMA4.needs, probe="moe.released:weighs_inputs_only")),
    # Its activation rounds after each of five steps, which no `Numerics` states.
    replace(
        _GPT_OSS,
        routers=frozenset({"topk_softmax"}),
        needs=replace(
            _GPT_OSS.needs,
            activation_functions=frozenset({"swiglu_clamped"}),
            layer_features=frozenset({"expert_bias"}),
            probe="moe.released:whole_experts_divide_evenly",
        ),
    ),
)
LAYERS = LayerRegistry(
    "layers",
    (
        OwnLayerSpec(name=COMPOSED, target="moe.layer:FusedMoE"),
        _transformers_block(
            "mixtral",
            "MixtralBlock",
            released.MIXTRAL,
            (replace(_ALL_ROUND, weighted="f32"), PLAIN),
        ),
        _transformers_block(
            *("qwen3_moe", "Qwen3MoeBlock", released.QWEN3_MOE, _OF_QWEN), "no_renorm"
        ),
        _transformers_block("olmoe", "OlmoeBlock", released.OLMOE, _OF_QWEN, "no_renorm"),
        *_SHARED_BLOCKS,
        OwnLayerSpec(
            name="torchtitan_moe",
            target="moe.layers.torchtitan_moe:TorchtitanMoE",
            needs=Needs(
                hidden_multiple=8,
                shard_multiple=8,
                packages=(released.TORCHTITAN,),
                probe="moe.released:experts_divide_evenly",
            ),
            numerics=replace(_ALL_ROUND, combine="model"),
            rounding=PLAIN,
            # torch has no autocast to float32 there, so that logits stay in the layer's dtype.
            rounding_on={"cpu": RouterNumerics.as_torch()},
            deterministic=True,
            takes=frozenset({"dp", "tp", "ep", "sp", "shared", "no_renorm"}),
            routers=frozenset({"softmax", "sigmoid"}),
        ),
    ),
)
