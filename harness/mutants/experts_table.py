"""List the known mistakes inside the experts, and those that take another token, rank or expert."""

from __future__ import annotations

from harness.mutants.hypothesis import LARGER, Hypothesis, costly, proof, rows_of

INSIDE_EXPERTS: tuple[Hypothesis, ...] = (
    # scales
    proof(
        "scales",
        "weights whose blocks differ more in size",
        "quantized",
        costly=True,
        scale_shifted="the scales of w13 are off by one block (or channel, or expert)",
    ),
    *costly(
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
    *costly(
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
    proof(
        "activation",
        "gate and up of different sizes",
        "gated",
        costly=True,
        gate_up_swapped="gate and up have changed places",
    ),
    proof(
        "activation_parameters",
        "inputs of which more are beyond the limit",
        "limit",
        costly=True,
        limit_missing="gate and up were not clamped at the activation's limit",
    ),
    # the biases of experts
    proof(
        "biases",
        LARGER,
        "expert_bias",
        costly=True,
        first_bias_missing="the biases of the first product were not added",
    ),
    proof(
        "biases",
        LARGER,
        "expert_bias",
        costly=True,
        second_bias_missing="the biases of the second product were not added",
    ),
    proof(
        "biases",
        LARGER,
        "expert_bias",
        "shards",
        costly=True,
        second_bias_on_each_rank="each rank added the biases of the second product",
    ),
    *rows_of(
        "biases",
        second_bias_unweighted="the biases of the second product were not multiplied by the "
        "router's weight",
    ),
    *costly(
        "biases",
        bias_halves_swapped="gate and up have each other's biases",
        bias_interleaved="interleaved biases were taken for those of gate and up",
        biases_of_next_expert="the biases are the next expert's",
        expert_without_biases="the biases of an expert were not added",
    ),
    *costly(
        "activation_parameters",
        gate_limit_missing="the gate was not clamped at the activation's limit",
        up_limit_missing="up was not clamped at the activation's limit",
        beta_missing="the activation's beta was not added to up",
        alpha_missing="the sigmoid's factor alpha was left out",
    ),
    *costly(
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
    *costly(
        "tokens",
        stale_sum="the experts added to what the call before left in the output's memory",
        tp_tokens_summed="an all-reduce added up the TP ranks' rows, which are of other tokens",
        first_rank_inputs="the experts were given rank 0's tokens with this rank's routing",
        other_half_inputs="the experts of half the tokens were given those of the other half",
        reversed_rank_inputs="the ranks' tokens were gathered in reverse order, their routing not",
        unpadded_offsets="rows were looked for as if the ranks before had sent no padding",
    ),
    # one matrix of another expert or rank
    *costly(
        "weights",
        w13_of_expert_before="w13 is the expert's before, w2 is right",
        w13_of_next_expert="w13 is the next expert's, w2 is right",
        w2_of_expert_before="w2 is the expert's before, w13 is right",
        w2_of_next_expert="w2 is the next expert's, w13 is right",
        w2_shard_of_next_rank="w2 is the next rank's shard, w13 is right",
        w2_shard_of_rank_before="w2 is the shard of the rank before, w13 is right",
    ),
    # packed codes, zero points, exponents and global scales of weights
    *costly(
        "packed_codes",
        nibbles_swapped="the two codes of each byte have changed places",
        words_in_awq_order="GPTQ's words of eight codes were read in AWQ's order",
        words_out_of_awq_order="AWQ's words of eight codes were read in order",
        zero_points_ignored="the zero points of the weights were not subtracted",
        zero_points_one_too_low="the zero points of the weights are one too low",
        exponents_one_too_high="the exponents of the weights' scales are one too high",
        exponents_one_too_low="the exponents of the weights' scales are one too low",
        global_scales_missing="the weights' global scales were not divided by",
        w2_global_scale_from_w13="w2 has the global scale of w13",
    ),
    # scales of other experts or rows
    *costly(
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
