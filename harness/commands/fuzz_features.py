"""Pick a router, an activation and further features of a drawn case by its seed. No torch.

No draw of hypothesis is used, so a further feature does not shift what else is drawn.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from harness.commands import row_choices
from harness.matrix.case import AXES, MoETestConfig
from harness.matrix.exactness import is_bitwise
from moe.eplb import MOVES
from moe.layers.layer_row import OwnLayerSpec
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import MONOLITHIC

if TYPE_CHECKING:
    from harness.commands.fuzz_space import Space
    from moe.spec import MemberSpec


def with_features(space: Space, case: MoETestConfig) -> MoETestConfig:
    """Return the case with some further features of a layer, picked by its seed, if that runs."""
    pick = random.Random(f"features {case.seed}")  # noqa: S311  # no secret
    changes: list[dict[str, Any]] = [
        {"shared_gate": True},
        {"zero_experts": pick.choice((1, 2, 3, case.num_experts))},
        {"shared_fused": True},
        {"shared_width": pick.choice([n for n in row_choices.SIZES if n * 2 <= case.n * 3])},
        {"shared_quant": pick.choice(list(QUANT.rows))},
        {"latent": pick.choice([n for n in row_choices.SIZES if n <= 2 * case.k])},
        {"adapters": pick.choice((1, 2, 3)), "lora_rank": pick.choice((1, 8, 16, 24))},
    ]
    for change in pick.sample(changes, pick.choice((0, 0, 1, 2))):
        changed = case.replace(**{**change, **space.fixed})
        if changed.exact == is_bitwise(changed) and space.runs(changed):
            case = changed
    return _balanced(space, case)


def _balanced(space: Space, case: MoETestConfig) -> MoETestConfig:
    """Return the case with load balancing, for every third seed, if there is enough to balance."""
    pick = random.Random(f"eplb {case.seed}")  # noqa: S311  # no secret
    if not case.use_ep or case.m * case.top_k < 4 * case.num_experts or pick.random() > 1 / 3:
        return case
    ranks = case.layout.size("ep")
    fields: dict[str, Any] = {"redundant": -case.num_experts % ranks + ranks * pick.choice((0, 1))}
    fields |= {"eplb_window": pick.choice((1, 2))}
    fields = {"eplb": "global", "eplb_move": pick.choice(MOVES), **fields, **space.fixed}
    changed = case.replace(**fields)
    return changed if space.runs(changed) else case


def with_families(space: Space, row: MemberSpec, case: MoETestConfig) -> MoETestConfig:
    """Return the case with a router and an activation picked by its seed: no draw shifts others."""
    pick = random.Random(case.seed)  # noqa: S311  # no secret
    chip = space.machine.platform
    served = [name for name in row_choices.routers(row) if ROUTERS.row(name).needs.are_met_by(chip)]
    router = pick.choice([case.router, *served])
    activation = pick.choice(row_choices.activations(row))
    changed = case.replace(**{"activation": activation, "router": router, **space.fixed})
    optional = changed.replace(**{**_routing_options(pick, changed), **space.fixed})
    is_limited = row.kind == MONOLITHIC or isinstance(row, OwnLayerSpec) or bool(space.fixed)
    for fields in dict.fromkeys((optional, changed)):
        asks_router = is_limited or fields.call != MoETestConfig.call
        is_sure = fields == changed and not asks_router  # plans take time
        if fields.exact == is_bitwise(fields) and (is_sure or space.runs(fields)):
            return fields
    return case


def _routing_options(pick: random.Random, case: MoETestConfig) -> dict[str, Any]:
    """Return at most one of the ways in which routing or its inputs may be special."""
    groups = {"router_groups": 2, "chosen_groups": 1} if case.num_experts % 2 == 0 else {}
    ways: list[dict[str, Any]] = [
        {"router_bias": True, "router_scale": 2.5, **groups},
        {"router_scale": 2.0},
        {"logits": pick.choice(AXES["logits"].choices)},
        {"padding": pick.choice(AXES["padding"].choices)},
        {"gate": True, "logits_dtype": "f32"},
        {"weights_input": True},
    ]
    return pick.choice([{}, {}, {}, *ways])
