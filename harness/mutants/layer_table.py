"""List the known mistakes around the experts: rows, slots, router weights, ranks and tokens."""

from __future__ import annotations

from harness.mutants.hypothesis import (
    LARGER,
    MORE_ROWS,
    SHARED,
    SPREAD,
    Hypothesis,
    costly,
    proof,
    rows_of,
)

AROUND_EXPERTS: tuple[Hypothesis, ...] = (
    # rows and columns of the output
    proof("rows", LARGER, zeros="nothing was computed: the output is zeros"),
    proof("rows", LARGER, halved="the output is half of what it should be"),
    proof("rows", LARGER, doubled="the output is twice what it should be"),
    proof("rows", LARGER, negated="the output has the wrong sign"),
    proof("rows", MORE_ROWS, rolled="each row holds the token before it (rows off by one)"),
    proof("rows", MORE_ROWS, swapped="two tokens have each other's rows"),
    proof("rows", LARGER, row_zeroed="a row was never added to: it is zeros"),
    proof("rows", LARGER, last_block_zeroed="the last 128 hidden columns were never written"),
    *rows_of(
        "rows",
        rows_off_by_block="rows are off by one block of 16 tokens",
        columns_rolled="hidden columns are off by one block of 128",
        columns_reversed_blocks="blocks of 128 hidden columns are in reverse order",
        odd_columns_swapped="neighbouring columns have changed places",
    ),
    # which expert, which slot
    proof("experts", SPREAD, expert_dropped="an expert's share was dropped"),
    proof(
        "experts",
        SPREAD,
        costly=True,
        expert_from_neighbour="an expert's tokens were computed with its neighbour's weights",
    ),
    proof("shared", SHARED, shared_missing="the shared experts were not added"),
    proof("shared", SHARED, shared_twice="the shared experts were added twice"),
    proof(
        "shared",
        SHARED,
        "shared_gate",
        shared_gate_ignored="the shared experts' gate was ignored",
    ),
    *rows_of(
        "shared",
        shared_from_output="the shared experts were given the routed output as their input",
        shared_gate_twice="the shared experts' gate was applied twice",
        shared_gate_not_squashed="the shared experts' gate was applied without its sigmoid",
    ),
    *rows_of(
        "experts",
        last_slot_dropped="top-k was cut short by one: the last slot is missing",
        slots_overwritten="every slot holds the first slot's expert output",
        only_best_expert="only the first slot was computed, with its own weight",
        best_expert_twice="the best expert was chosen twice and the last one left out",
        ids_in_int8="expert ids were kept in eight bits: those above 127 are lost",
    ),
    *costly(
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
    proof(
        "zero_experts",
        MORE_ROWS,
        "zero_experts",
        zero_experts_missing="the zero experts' tokens were not added",
    ),
    *rows_of(
        "zero_experts",
        zero_experts_unweighted="zero experts returned the token without its router weight",
        zero_experts_weighted_twice="zero experts' tokens were multiplied by the weight twice",
        first_zero_expert_missing="the first zero expert's tokens were not added",
        zero_experts_unscaled="zero experts' tokens were not multiplied by the router's factor",
        zero_experts_once_per_rank="zero experts' tokens were added once per TP rank",
    ),
    *costly(
        "zero_experts",
        zero_experts_as_first="slots of zero experts were computed with expert 0",
    ),
    # the projections of a latent layer
    proof(
        "latent",
        LARGER,
        "latent",
        costly=True,
        latent_not_entered="the experts were given hidden columns, not the latent ones",
    ),
    proof(
        "latent",
        LARGER,
        "latent",
        costly=True,
        latent_not_left="the experts' sums were not projected back from the latent width",
    ),
    *costly(
        "latent",
        latent_entered_twice="tokens were projected to the latent width twice",
        latent_left_twice="the experts' sums were projected back twice",
        latent_tied="the experts' sums were projected back by the transpose of the way in",
        latent_swapped="the two projections of the latent layer have changed places",
        latent_last_block_missing="the last 128-block of K was left out of the latent projection",
    ),
    *rows_of(
        "latent",
        latent_for_shared="the shared experts were given the projected tokens",
        shared_left_as_latent="the shared experts were added before the way back, not after it",
    ),
    # low-rank adapters
    proof(
        "lora",
        "more tokens, so that some have an adapter",
        "lora",
        costly=True,
        lora_missing="the tokens' adapters were not applied",
    ),
    proof(
        "lora",
        "more tokens, so that some have an adapter",
        "lora",
        costly=True,
        lora_second_missing="the adapter was not applied to the second product",
    ),
    *costly(
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
    proof("routing", SPREAD, weights_ignored="the router's weights were ignored"),
    proof("routing", SPREAD, weights_twice="the router's weights were applied twice"),
    *rows_of(
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
    *costly(
        "routing",
        weights_on_input="the router's weight was applied to the expert's input",
        weights_on_output="the router's weight was applied to the output, not to the input",
    ),
    # sums over ranks
    proof("ranks", SPREAD, "ranks", rank_missing="a rank's share is missing from the sum"),
    proof("ranks", SPREAD, "ranks", rank_twice="a rank's share was added twice"),
    *rows_of(
        "ranks",
        tp_rank_missing="a TP rank's share is missing from the all-reduce",
        all_reduce_missing="the all-reduce over the TP ranks is missing",
        all_reduce_twice="the all-reduce over the TP ranks was done twice",
        all_reduce_averaged="the TP ranks were averaged instead of summed",
        reduce_scatter_missing="partial sums were not added over the ranks that share tokens",
        context_ranks_not_summed="partial sums were not added over the context ranks",
        moe_tp_ranks_not_summed="partial sums of split experts were not added over moe_tp ranks",
        split_experts_repeated="each rank that shares an expert added all of it",
        shared_once_per_rank="the shared experts were added once per TP rank",
        shared_unreduced="only this TP rank's share of the shared experts was added",
    ),
    # load balancing
    proof(
        "balancing",
        "more tokens, so that some have an expert that was moved",
        "eplb",
        stale_replica_map="tokens were sent to where their experts were before a rebalance",
    ),
    *rows_of(
        "balancing",
        logical_ids_as_physical="ids of experts were taken for those of the slots that hold them",
        weights_not_moved="a rebalance changed the map of replicas, and moved no weights",
        replicas_disagree="ranks with the same tokens chose different replicas of an expert",
    ),
    *costly(
        "balancing",
        scales_left_behind="moved experts have the scales of those that were in their slots before",
        biases_left_behind="moved experts have the biases of those that were in their slots before",
    ),
    # other tokens
    *costly(
        "tokens",
        neighbour_tokens="the rows are those of the next rank's tokens",
        stale_output="the rows are left over from the call before",
    ),
    *rows_of("tokens", first_rank_weights="the router's weights are those of rank 0's tokens"),
)
