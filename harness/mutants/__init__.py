"""Known mistakes, and the output that a layer would return under each of them.

The table has two uses. The self-check of every case asks whether the checks would reject the
mistakes marked `battery`; the diagnosis asks which mistake gives the actual output. Each row names
a function in its family's module; the table itself does not import torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.spec import LayerSpec

FEW = 4  # rows for which a mistake inside the experts is computed
MORE_ROWS = "more tokens"


class NotApplicable(Exception):  # not an error: the mistake changes nothing in this case
    """Raised if a case's configuration rules the mistake out; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Describe one mistake. cause: a clause for messages. remedy: inputs that would expose it.

    family: the module of this package that computes it. battery: part of every self-check.
    costly: experts run again, on at most `FEW` rows. needs: what a case must have for the mistake
    to exist: `quantized` (weights), `ranks` (more than one), `limit` (of the activation), or one of
    `features_of` its layer; `shards`: of an expert over ranks.
    """

    name: str
    family: str  # module of this package
    cause: str
    battery: bool = False
    costly: bool = False
    needs: frozenset[str] = frozenset()
    remedy: str = MORE_ROWS

    def compute(self, scene: Scene) -> Tensor:
        """Return [r', K] float32, the output under the mistake for the first r' <= r rows.

        Raises NotApplicable if the mistake does not exist in this case.
        """
        module = importlib.import_module(f"harness.mutants.{self.family}")
        output: Tensor = getattr(module, self.name)(scene)
        return output

    def possible(self, layer_spec: LayerSpec) -> bool:
        """Tell whether any case of this layer can have the mistake, whatever its sizes."""
        features = features_of(layer_spec)
        has = {
            "quantized": layer_spec.scheme.weights != "model",
            "ranks": layer_spec.layout.world_size > 1,
            "limit": ACTIVATIONS.row(layer_spec.activation).limit is not None,
            "shards": layer_spec.layout.world_size > 1 and not layer_spec.layout.use_ep,
        }
        return all(has.get(need, need in features) for need in self.needs)


def features_of(layer_spec: LayerSpec) -> frozenset[str]:
    """Return the features of a layer that mistakes may need."""
    more = {"shared_gate": layer_spec.shared_gate, "lora": layer_spec.adapters > 0}
    return layer_spec.layer_features | {name for name, has in more.items() if has}


def _rows(family: str, **causes: str) -> tuple[Hypothesis, ...]:
    """Return mistakes that are cheap to compute, for the diagnosis only."""
    return tuple(Hypothesis(name=n, family=family, cause=c) for n, c in causes.items())


def _costly(family: str, **causes: str) -> tuple[Hypothesis, ...]:
    """Return mistakes inside the experts, for the diagnosis only."""
    return tuple(
        Hypothesis(name=n, family=family, cause=cause, costly=True) for n, cause in causes.items()
    )


def _proof(
    family: str, remedy: str, *needs: str, costly: bool = False, **causes: str
) -> Hypothesis:
    """Return a mistake that is part of every self-check."""
    ((name, cause),) = causes.items()
    required = frozenset(needs)
    return Hypothesis(
        name=name,
        family=family,
        cause=cause,
        battery=True,
        costly=costly,
        needs=required,
        remedy=remedy,
    )


_SPREAD = "top-k > 1 and router weights that are spread more"
_LARGER = "a larger n, so that the tolerance is a smaller part of a row"
_SHARED = "shared experts of a larger size"

HYPOTHESES: tuple[Hypothesis, ...] = (
    # rows and columns of the output
    _proof("rows", _LARGER, zeros="nothing was computed: the output is zeros"),
    _proof("rows", _LARGER, halved="the output is half of what it should be"),
    _proof("rows", _LARGER, doubled="the output is twice what it should be"),
    _proof("rows", _LARGER, negated="the output has the wrong sign"),
    _proof("rows", MORE_ROWS, rolled="each row holds the token before it (rows off by one)"),
    _proof("rows", MORE_ROWS, swapped="two tokens have each other's rows"),
    _proof("rows", _LARGER, row_zeroed="a row was never added to: it is zeros"),
    _proof("rows", _LARGER, last_block_zeroed="the last 128 hidden columns were never written"),
    *_rows(
        "rows",
        rows_off_by_block="rows are off by one block of 16 tokens",
        columns_rolled="hidden columns are off by one block of 128",
        columns_reversed_blocks="blocks of 128 hidden columns are in reverse order",
        odd_columns_swapped="neighbouring columns have changed places",
    ),
    # which expert, which slot
    _proof("experts", _SPREAD, expert_dropped="an expert's share was dropped"),
    _proof(
        "experts",
        _SPREAD,
        costly=True,
        expert_from_neighbour="an expert's tokens were computed with its neighbour's weights",
    ),
    _proof("shared", _SHARED, shared_missing="the shared experts were not added"),
    _proof("shared", _SHARED, shared_twice="the shared experts were added twice"),
    _proof(
        "shared",
        _SHARED,
        "shared_gate",
        shared_gate_ignored="the shared experts' gate was ignored",
    ),
    *_rows(
        "shared",
        shared_from_output="the shared experts were given the routed output as their input",
        shared_gate_twice="the shared experts' gate was applied twice",
        shared_gate_not_squashed="the shared experts' gate was applied without its sigmoid",
    ),
    *_rows(
        "experts",
        last_slot_dropped="top-k was cut short by one: the last slot is missing",
        slots_overwritten="every slot holds the first slot's expert output",
        only_best_expert="only the first slot was computed, with its own weight",
        best_expert_twice="the best expert was chosen twice and the last one left out",
        ids_in_int8="expert ids were kept in eight bits: those above 127 are lost",
    ),
    *_costly(
        "experts",
        ids_off_by_one="every expert id is one too high",
        ids_one_too_low="every expert id is one too low",
        global_ids_as_local="global expert ids were taken for local ones",
        offset_taken_twice="the rank's first expert was subtracted twice from the ids",
        stale_expert_map="the expert map is the neighbour rank's (a stale map)",
        remainder_on_last_rank="the map gives the odd experts to the last rank, the weights to the "
        "first ranks",
        absent_as_first="slots of absent experts were computed with local expert 0",
        absent_as_last="slots of absent experts (-1) were computed with the last local expert",
    ),
    # zero-computation experts
    _proof(
        "zero_experts",
        MORE_ROWS,
        "zero_experts",
        zero_experts_missing="the zero experts' tokens were not added",
    ),
    *_rows(
        "zero_experts",
        zero_experts_unweighted="zero experts returned the token without its router weight",
        zero_experts_weighted_twice="zero experts' tokens were multiplied by the weight twice",
        zero_experts_once_per_rank="zero experts' tokens were added once per TP rank",
    ),
    *_costly(
        "zero_experts",
        zero_experts_as_first="slots of zero experts were computed with expert 0",
    ),
    # the projections of a latent layer
    _proof(
        "latent",
        _LARGER,
        "latent",
        costly=True,
        latent_not_entered="the experts were given hidden columns, not the latent ones",
    ),
    _proof(
        "latent",
        _LARGER,
        "latent",
        costly=True,
        latent_not_left="the experts' sums were not projected back from the latent width",
    ),
    *_costly(
        "latent",
        latent_entered_twice="tokens were projected to the latent width twice",
        latent_left_twice="the experts' sums were projected back twice",
        latent_tied="the experts' sums were projected back by the transpose of the way in",
        latent_swapped="the two projections of the latent layer have changed places",
        latent_last_block_missing="the last 128-block of K was left out of the latent projection",
    ),
    *_rows(
        "latent",
        latent_for_shared="the shared experts were given the projected tokens",
        shared_left_as_latent="the shared experts were added before the way back, not after it",
    ),
    # low-rank adapters
    _proof(
        "lora",
        "more tokens, so that some have an adapter",
        "lora",
        costly=True,
        lora_missing="the tokens' adapters were not applied",
    ),
    _proof(
        "lora",
        "more tokens, so that some have an adapter",
        "lora",
        costly=True,
        lora_second_missing="the adapter was not applied to the second product",
    ),
    *_costly(
        "lora",
        lora_of_next_adapter="each token's adapter is the next one's",
        lora_of_neighbour="each token has the adapter of the token before it",
        lora_none_as_last="tokens without an adapter (-1) have the last one's",
        lora_scale_missing="the adapters were not multiplied by alpha / r",
        lora_scale_twice="the adapters were multiplied by alpha / r twice",
        lora_first_missing="the adapter was not applied to the first product",
        lora_gate_only="the first product's adapter was applied to gate only",
        lora_up_only="the first product's adapter was applied to up only",
        lora_halves_swapped="gate and up have each other's adapter",
        lora_of_next_expert="the adapter's matrices are the next expert's",
    ),
    # the router's weights
    _proof("routing", _SPREAD, weights_ignored="the router's weights were ignored"),
    _proof("routing", _SPREAD, weights_twice="the router's weights were applied twice"),
    *_rows(
        "routing",
        weights_uniform="the k experts were averaged instead of weighted",
        weights_reversed="the router's weights are in the wrong order of slots",
        renormalisation_missing="the chosen router weights were not renormalised",
        renormalisation_extra="the chosen router weights were renormalised and should not be",
        weights_sigmoid="the router's weights come from a sigmoid instead of a softmax",
        weights_softmax="the router's weights come from a softmax, which the layer does not use",
        bias_in_weights="the router's correction bias, which is for the choice, is in the weights",
        renormalised_over_all="the chosen weights were divided by the sum over all experts",
        router_scale_missing="the router's weights were not multiplied by its factor",
        router_scale_twice="the router's weights were multiplied twice by its factor",
        router_scale_on_shared="the router's factor was applied to the shared experts, too",
        weights_on_both="the router's weight was applied to the input and to the output",
    ),
    *_costly(
        "routing",
        weights_on_input="the router's weight was applied to the expert's input",
        weights_on_output="the router's weight was applied to the output, not to the input",
    ),
    # sums over ranks
    _proof("ranks", _SPREAD, "ranks", rank_missing="a rank's share is missing from the sum"),
    _proof("ranks", _SPREAD, "ranks", rank_twice="a rank's share was added twice"),
    *_rows(
        "ranks",
        tp_rank_missing="a TP rank's share is missing from the all-reduce",
        all_reduce_missing="the all-reduce over the TP ranks is missing",
        all_reduce_twice="the all-reduce over the TP ranks was done twice",
        all_reduce_averaged="the TP ranks were averaged instead of summed",
        reduce_scatter_missing="partial sums were not added over the ranks that share tokens",
        shared_once_per_rank="the shared experts were added once per TP rank",
        shared_unreduced="only this TP rank's share of the shared experts was added",
    ),
    # other tokens
    *_costly(
        "tokens",
        neighbour_tokens="the rows are those of the next rank's tokens",
        stale_output="the rows are left over from the call before",
    ),
    *_rows("tokens", first_rank_weights="the router's weights are those of rank 0's tokens"),
    # scales
    _proof(
        "scales",
        "weights whose blocks differ more in size",
        "quantized",
        costly=True,
        scale_shifted="the scales of w13 are off by one block (or channel, or expert)",
    ),
    *_costly(
        "scales",
        w2_scale_shifted="the scales of w2 are off by one block (or channel, or expert)",
        scale_shifted_back="the scales of w13 are off by one, each the next block's "
        "(or the next channel's, or the expert's before)",
        w2_scale_shifted_back="the scales of w2 are off by one, each the next block's "
        "(or the next channel's, or the expert's before)",
        w13_scale_transposed="the block scales of w13 were read transposed",
        w2_scale_transposed="the block scales of w2 were read transposed",
        up_scale_from_gate="the up half was scaled with the gate half's scales",
        gate_scale_from_up="the gate half was scaled with the up half's scales",
        w13_scale_twice="the scales of w13 were applied twice",
        w13_scale_missing="the scales of w13 were not applied",
        w2_scale_twice="the scales of w2 were applied twice",
        w2_scale_missing="the scales of w2 were not applied",
        input_scale_twice="the input's scale was applied twice",
        input_scale_missing="the input's scale was not applied",
        second_scale_twice="the intermediate's scale was applied twice",
        second_scale_missing="the intermediate's scale was not applied",
        second_scale_from_input="the intermediate was quantized with the input's static scale",
        input_scale_from_second="the input was quantized with the intermediate's static scale",
        input_groups_shifted="the input's group scales are off by one group",
    ),
    # number formats
    *_costly(
        "rounding",
        activations_unquantized="the activations were not quantized",
        second_unquantized="the intermediate was not quantized",
        weights_unquantized="the weights were not quantized",
        codes_truncated="activation codes were truncated instead of rounded",
        overflow_to_nan="activations beyond the fp8 range became NaN instead of saturating",
        fnuz_codes="fp8 weights were read as the other kind (fnuz): half of each value",
        bf16_accumulation="products were accumulated in the model dtype",
    ),
    # inside an expert
    _proof(
        "activation",
        "gate and up of different sizes",
        costly=True,
        gate_up_swapped="gate and up have changed places",
    ),
    _proof(
        "activation_parameters",
        "inputs of which more are beyond the limit",
        "limit",
        costly=True,
        limit_missing="gate and up were not clamped at the activation's limit",
    ),
    # the biases of experts
    _proof(
        "biases",
        _LARGER,
        "expert_bias",
        costly=True,
        first_bias_missing="the biases of the first product were not added",
    ),
    _proof(
        "biases",
        _LARGER,
        "expert_bias",
        costly=True,
        second_bias_missing="the biases of the second product were not added",
    ),
    _proof(
        "biases",
        _LARGER,
        "expert_bias",
        "shards",
        costly=True,
        second_bias_on_each_rank="each rank added the biases of the second product",
    ),
    *_rows(
        "biases",
        second_bias_unweighted="the biases of the second product were not multiplied by the "
        "router's weight",
    ),
    *_costly(
        "biases",
        bias_halves_swapped="gate and up have each other's biases",
        bias_interleaved="interleaved biases were taken for those of gate and up",
        biases_of_next_expert="the biases are the next expert's",
        expert_without_biases="the biases of an expert were not added",
    ),
    *_costly(
        "activation_parameters",
        gate_limit_missing="the gate was not clamped at the activation's limit",
        up_limit_missing="up was not clamped at the activation's limit",
        beta_missing="the activation's beta was not added to up",
        alpha_missing="the sigmoid's factor alpha was left out",
    ),
    *_costly(
        "activation",
        silu="SiLU was used as the activation",
        gelu="GELU in its erf form was used as the activation",
        gelu_tanh="GELU in its tanh form was used as the activation",
        relu="ReLU was used as the activation",
        relu2="squared ReLU was used as the activation",
        sigmoid="the gate's sigmoid alone was used as the activation",
        silu_without_up="the activation of the gate without the up product",
        up_without_gate="up alone, without the gate",
        product_without_silu="gate times up without the activation",
        gate_clamped="gate and up were clamped at 7 (a SwiGLU limit that is not asked for)",
        swiglu_oai="SwiGLU with alpha 1.702 and up + 1 was used",
        gate_up_interleaved="interleaved rows of w13 were taken for gate and up",
        shard_of_joined_rows="the shard of w13 was cut from the joined rows, not from each half",
        half_intermediate="the upper half of the intermediate columns is missing",
        w2_blocks_transposed="each 128x128 block of w2 is transposed",
        odd_k_blocks_missing="every second 128-block of K was left out of the first product",
        last_k_block_missing="the last 128-block of K was left out of the first product",
        last_n_block_missing="the last 128 columns were left out of the second product",
    ),
    # what more ranks and calls can do wrong
    *_costly(
        "tokens",
        stale_sum="the experts added to what the call before left in the output's memory",
        tp_tokens_summed="an all-reduce added up the TP ranks' rows, which are of other tokens",
        first_rank_inputs="the experts were given rank 0's tokens with this rank's routing",
        reversed_rank_inputs="the ranks' tokens were gathered in reverse order, their routing not",
        unpadded_offsets="rows were looked for as if the ranks before had sent no padding",
    ),
    # one matrix of another expert or rank
    *_costly(
        "weights",
        w13_of_expert_before="w13 is the expert's before, w2 is right",
        w13_of_next_expert="w13 is the next expert's, w2 is right",
        w2_of_expert_before="w2 is the expert's before, w13 is right",
        w2_of_next_expert="w2 is the next expert's, w13 is right",
        w2_shard_of_next_rank="w2 is the next rank's shard, w13 is right",
        w2_shard_of_rank_before="w2 is the shard of the rank before, w13 is right",
    ),
    # packed codes, zero points, exponents and global scales of weights
    *_costly(
        "packed_codes",
        nibbles_swapped="the two codes of each byte have changed places",
        words_in_awq_order="GPTQ's words of eight codes were read in AWQ's order",
        words_out_of_awq_order="AWQ's words of eight codes were read in order",
        zero_points_ignored="the zero points of the weights were not subtracted",
        zero_points_one_too_low="the zero points of the weights are one too low",
        exponents_one_too_high="the exponents of the weights' scales are one too high",
        exponents_one_too_low="the exponents of the weights' scales are one too low",
        global_scales_missing="the weights' global scales were not divided by",
    ),
    # scales of other experts or rows
    *_costly(
        "scale_scopes",
        w13_scale_of_first_expert="all experts have the scales of w13 of a rank's first one",
        w2_scale_of_first_expert="all experts have the scales of w2 of a rank's first one",
        w13_scale_of_next_expert="the scales of w13 are the next expert's",
        w2_scale_of_next_expert="the scales of w2 are the next expert's",
        w13_scale_of_expert_before="the scales of w13 are the expert's before",
        w2_scale_of_expert_before="the scales of w2 are the expert's before",
        second_scale_of_all_rows="the intermediate has one scale for all rows, not each its own",
    ),
)


def named(name: str) -> Hypothesis:
    """Return the mistake of this name. Raises KeyError."""
    return {h.name: h for h in HYPOTHESES}[name]
