"""Define hypothesis strategies for cases of one real model: its layer stays, the rest varies.

Drawn are the layout and quantization method, of those that were asked for, the experts and all2all
backend, the number of tokens and their spread, and the seed. A failing case is shrunk as any other,
below the model's sizes, too. No torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.control import reject

from harness.commands import row_choices, strategies
from harness.errors import NothingSelected
from harness.matrix import expand
from harness.matrix.case import ONE_RANK_TOKENS, TOKEN_COUNTS
from harness.plan.manifest import refused_cases
from harness.plan.plan import make_plan
from harness.report.tables import skip_lines
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.commands.fuzz_space import Space
    from harness.matrix.case import MoETestConfig
    from harness.plan.model_selection import ModelPoints


def cases_of(space: Space) -> st.SearchStrategy[MoETestConfig]:
    """Return the strategy for a space: of its model if it has one."""
    return _cases(space) if space.bases else strategies.configs(space)


def with_model(space: Space, model: ModelPoints) -> Space:
    """Return the space of one model's cases. Raises NothingSelected if none would run here."""
    alike = dict.fromkeys(point.replace(**{"m": 1, **space.fixed}) for point in model.points)
    if space.layer == COMPOSED:
        points = [point.replace(experts=name) for point in alike for name in space.experts]
    else:
        points = [*expand.with_layer(alike, space.layer)]
    plan = make_plan(points, space.machine)
    if not plan.jobs:
        reasons = skip_lines(refused_cases(plan))
        raise NothingSelected("\n".join([model.note, "nothing of it would run here:", *reasons]))
    return replace(space, bases=tuple(plan.cases), tokens=model.max_tokens)


@st.composite
def _cases(draw: Callable[[Any], Any], space: Space) -> MoETestConfig:
    """Draw one case of a model that the plan does not refuse."""
    base = draw(st.sampled_from(space.bases))
    row = space.row_of(base.experts)
    case: MoETestConfig = base.replace(
        m=draw(strategies.token_counts(space, base.dp_size)),
        all2all=draw(st.sampled_from(row_choices.all2alls(base.layout, row))),
        tokens=draw(st.sampled_from(TOKEN_COUNTS if base.dp_size > 1 else ONE_RANK_TOKENS)),
        seed=draw(st.integers(0, strategies.SEEDS - 1)),
    ).replace(**space.fixed)
    return case if space.runs(case) else reject()
