"""Run `numerics`: find where a member rounds, and print the declaration for its row. No torch.

A few small cases run in a rank of their own, so that a member that crashes or hangs is reported as
such. The rank compares each output with an emulation of every combination of roundings.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

from harness.commands import (
    hidden_rounding_report,
    numerics_report,
    router_numerics,
    row_choices,
)
from harness.commands.numerics_decision import decide
from harness.errors import ExitCode, InfrastructureError, NothingSelected, UsageError
from harness.matrix.case import AXES, MoETestConfig
from harness.plan import machine, model_selection
from harness.plan.plan import make_plan
from harness.testing.parallel_launch import RankFailure, parallel_launch
from moe.activations import ACTIVATIONS
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN
from moe.quant import QUANT
from moe.spec import resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from harness.plan.machine import Machine
    from harness.plan.plan import Plan
    from harness.record.rounding_fit import Measured
    from moe.spec import MemberSpec, Numerics

TOP_KS = (1, 2, 4)  # of one expert there is no sum, of two no order
_SIZES = ((128, 128), (256, 256), (512, 512), (1024, 1024))  # n, k: the first that the row takes
_DTYPES = ("bf16", "fp16")
_SHARED = ("shared_experts", "shared_width", "shared_quant", "shared_gate", "shared_fused")
# Axes with which outputs do not tell where the experts round, unless they have the default.
_HIDING = ("dp_size", "tp_size", *_SHARED, "zero_experts", "padding", "logits", "exact")
_MEASURE = "harness.checks.rounding_fits:measure"
# Reason codes of refusals that another machine would not have.
_OF_MACHINE = frozenset({"platform_lacks_feature", "package_missing", "module_not_built"})


def infer(args: argparse.Namespace) -> int:
    """Print where the member rounds; return 0 if its row says nothing else, otherwise 1."""
    if args.router is not None:
        if [args.experts, args.layer, args.case, args.model, args.quant] != [None] * 5:
            raise UsageError("--router NAME measures a router alone; leave the other options out")
        return router_numerics.infer(args.router, machine.detect(), _refused, _in_rank(args))
    plan = planned(args, machine.detect())
    cases = plan.cases
    print(f"{cases[0].under_test} on {plan.machine.platform.name}, {len(cases)} cases of one rank:")
    print("".join(f"  {case.id}\n" for case in cases), flush=True)
    try:
        measured: Measured = _in_rank(args)(plan, _MEASURE)
    except RankFailure as error:
        print(f"{cases[0].under_test} returned no outputs to compare: {error}", file=sys.stderr)
        return ExitCode.FAILED
    decision = decide(measured, stated_numerics(cases[0], plan.machine.platform.device))
    print("\n".join(numerics_report.lines(cases[0], measured, decision)))
    is_right = decision.is_right
    if measured.hidden is not None:
        print("\n".join(hidden_rounding_report.lines(measured.hidden)))
        is_right &= not hidden_rounding_report.decide_hidden(measured.hidden).is_wrong
    return ExitCode.PASSED if is_right else ExitCode.FAILED


def _in_rank(args: argparse.Namespace) -> Callable[[Plan, str], Any]:
    """Return what measures the outputs of a plan's cases, by the name of a function of the rank.

    It raises RankFailure and GangStartError.
    """

    def measured(plan: Plan, target: str) -> Any:
        device, ids = plan.machine.platform.device, tuple(plan.cases.ids())
        limit = args.time_limit
        return parallel_launch(1, in_rank, target, ids, device, timeout=limit, device=device)[0]

    return measured


def in_rank(target: str, *arguments: Any) -> Any:
    """Call the function named "package.module:function", which the controller must not import."""
    return resolve(target)(*arguments)


def stated_numerics(case: MoETestConfig, device: str) -> Numerics:
    """Return what the row under test states for the case's scheme. device: a torch device type."""
    return _row(case).numerics_for(case.layer_spec.scheme, device)


def _row(case: MoETestConfig) -> MemberSpec:
    return EXPERTS.row(case.experts) if case.layer == COMPOSED else LAYERS.row(case.layer)


def planned(args: argparse.Namespace, local: Machine) -> Plan:
    """Return the plan of the first small cases that the member takes.

    Raises UsageError for options that do not fit together, NothingSelected if the member takes
    none, and InfrastructureError if that is for lack of a device or package.
    """
    if [args.experts, args.layer, args.case].count(None) != 2:
        raise UsageError("give one of them: --experts NAME, --layer NAME, --router NAME, --case ID")
    if args.case is not None and (args.model is not None or args.quant is not None):
        raise UsageError("--case has sizes and a method of its own; leave --model and --quant out")
    plans = []
    for points in _points(args):
        plan = make_plan(points, local)
        if len(plan.cases) == len(points):
            return plan
        plans.append(plan)
    fullest = max(plans, key=lambda plan: len(plan.cases))
    if fullest.cases:
        return fullest
    raise _refused(plans[0])


def _points(args: argparse.Namespace) -> Iterator[Sequence[MoETestConfig]]:
    """Yield the cases to try, plain ones first; each sequence differs in `top_k` alone.

    A model's shared experts are left out: they round by themselves.
    """
    if args.case is not None:
        yield _by_top_k(_measurable(MoETestConfig.from_id(args.case)))
        return
    member = {"experts": args.experts} if args.experts else of_layer(args.layer)
    if args.model is not None:
        share = model_selection.small_share(args.model, args.quant)
        yield _by_top_k(share.replace(**member, **_default(_SHARED)))
        return
    quants = [args.quant] if args.quant else list(QUANT.rows)
    for quant, dtype, activation, (n, k) in itertools.product(
        quants, _DTYPES, ACTIVATIONS.rows, _SIZES
    ):
        first = MoETestConfig(
            **{"m": 16, "n": n, "k": k, "num_experts": 8, "top_k": 1, **member},
            quant=quant,
            dtype=dtype,
            activation=activation,
        )
        yield _by_top_k(first)


def of_layer(name: str) -> dict[str, str]:
    """Return the axes of a whole layer, with a router that it has: the default if it can be."""
    member = {"experts": OWN, "layer": name}
    router = row_choices.routers(LAYERS.row(name))[0]
    return member if router == MoETestConfig.router else {**member, "router": router}


def _by_top_k(first: MoETestConfig) -> list[MoETestConfig]:
    return [first.replace(top_k=top_k) for top_k in TOP_KS if top_k <= first.num_experts]


def _measurable(case: MoETestConfig) -> MoETestConfig:
    """Return the case. Raises UsageError for one whose outputs do not tell where it rounds."""
    unsuited = [
        AXES[name].token
        for name, value in _default(_HIDING).items()
        if getattr(case, name) != value
    ]
    if unsuited:
        raise UsageError(
            f"--case: roundings are measured on one rank, of routed experts alone, in inputs that "
            f"round; leave out {', '.join(unsuited)}"
        )
    return case


def _default(names: Sequence[str]) -> dict[str, Any]:
    return {name: AXES[name].default for name in names}


def _refused(plan: Plan) -> NothingSelected | InfrastructureError:
    """Return the error for a member that takes no case, with the reason for the plainest one."""
    refusal = plan.refused[0]
    text = f"{refusal.case.id} is refused: {refusal.reason.code}: {refusal.reason.text}"
    if refusal.reason.code in _OF_MACHINE:
        return InfrastructureError(f"{text}; run it on a machine that has it")
    return NothingSelected(f"no case of one rank would run, {text}")
