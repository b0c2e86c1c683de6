"""Turn the facts of a real model into cases: layouts times tokens times quantization methods.

What a case cannot say exactly goes into its axis `missing`, and the plan refuses it.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.features import joined
from harness.matrix.suite_size import MOST_CASES
from moe.activations import ACTIVATIONS
from moe.oracle import AUTO
from moe.quant import QUANT
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix.layout_words import LayoutChoice
    from harness.matrix.model_facts import ModelFacts


def points_of(
    facts: ModelFacts,
    *,
    layouts: Sequence[LayoutChoice],
    tokens: Sequence[int],
    quants: Sequence[str] = (),
) -> tuple[MoETestConfig, ...]:
    """Return the cases of a model, those of a layout together, each once.

    tokens: per DP rank. quants: methods for the routed experts; none: the checkpoint's own. Raises
    UsageError for more cases than a run may have.
    """
    count = len(layouts) * len(tokens) * max(len(quants), 1)
    if count > MOST_CASES:
        raise UsageError(
            f"--layouts, --tokens and --quant make {count:,} cases, more than {MOST_CASES:,}; "
            "give fewer of them"
        )
    points = (
        _point(facts, choice, m, quant)
        for choice, quant, m in product(layouts, quants or (None,), tokens)
    )
    return tuple(dict.fromkeys(points))


def _point(facts: ModelFacts, choice: LayoutChoice, m: int, quant: str | None) -> MoETestConfig:
    """Return one case. quant: a method, or None for the checkpoint's own."""
    experts, layout = choice.experts(facts.experts), choice.layout
    scoring, activation = facts.router.scoring, activation_row(facts)
    method = facts.quant if quant is None else quant
    return MoETestConfig(
        m=m,
        n=facts.intermediate,
        k=facts.hidden,
        num_experts=experts,
        total_experts=facts.experts if choice.is_share else 0,
        # A share routes each token to as many experts as the model, if it has them.
        top_k=min(facts.top_k, experts),
        experts=AUTO,
        quant=MoETestConfig.quant if quant is None and method not in QUANT.rows else method,
        dtype=facts.dtype,
        **vars(layout),
        **_shared(facts, method if quant is None else None),
        renormalize=facts.router.renormalize,
        router=scoring if scoring in ROUTERS.rows else MoETestConfig.router,
        router_bias=facts.router.bias,
        router_scale=facts.router.scale,
        weights_input=facts.router.weights_input,
        **_groups(facts, experts),
        activation=activation if activation in ACTIVATIONS.rows else MoETestConfig.activation,
        expert_bias=facts.expert_bias,
        latent=facts.latent or 0,
        missing=joined(missing_words(facts, quant)),
    )


def _shared(facts: ModelFacts, own: str | None) -> dict[str, Any]:
    """Return the axes of the shared experts. own: the checkpoint's method, or None: unquantized.

    They are one MLP of that many columns, whatever the number of experts it is published as.
    """
    number, remainder = divmod(facts.shared_width, facts.intermediate)
    if facts.shared_width == 0:
        return {}
    return {
        "shared_experts": facts.shared_experts if remainder else number,
        "shared_width": facts.shared_width if remainder else 0,
        "shared_gate": facts.shared_gate,
        "shared_quant": own if own in QUANT.rows else MoETestConfig.shared_quant,
    }


def activation_row(facts: ModelFacts) -> str:
    """Return the name that a row of `moe.activations` has for the model's function, if any."""
    return facts.activation if facts.gated else f"{facts.activation}_no_mul"


def _groups(facts: ModelFacts, experts: int) -> dict[str, Any]:
    """Return the groups of so many experts; none if a share of the experts does not have them."""
    groups, chosen = facts.router.groups, facts.router.chosen_groups
    has_groups = chosen < groups and facts.router.bias and experts % groups == 0
    if not has_groups or chosen * (experts // groups) < min(facts.top_k, experts):
        return {}
    return {"router_groups": groups, "chosen_groups": chosen}


def missing_words(facts: ModelFacts, quant: str | None) -> list[str]:
    """Return the words of `harness.matrix.features` for what no case can say of these facts."""
    router, own = facts.router, facts.quant
    words = {
        f"scoring_{router.scoring}": router.scoring not in ROUTERS.rows,
        # Without a bias, published routers rank groups by their best expert.
        "router_groups": router.chosen_groups < router.groups and not router.bias,
        f"act_{activation_row(facts)}": activation_row(facts) not in ACTIVATIONS.rows,
        f"quant_{own}": quant is None and own not in QUANT.rows,
    }
    return [word for word, is_missing in words.items() if is_missing]
