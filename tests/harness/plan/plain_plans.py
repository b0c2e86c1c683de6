"""A plan made case by case, as the fast way by numbers must make it: slow, and without memory."""

import itertools
from collections import defaultdict

from harness.matrix.case import MoETestConfig
from harness.matrix.expand import block_values, suite_of
from harness.matrix.tactics import each_tactic
from harness.plan.plan import compile_key
from harness.plan.refusals import Judge


def product(block, defaults):
    """Yield each point of a block as a whole case, checked by itself."""
    for choice in itertools.product(*block_values(block, defaults).values()):
        fields = {name: value for part in choice for name, value in part.items()}
        yield from each_tactic(MoETestConfig(**fields))


def points_of(config, name):
    """Return the cases of a suite of full blocks, each once."""
    points = {}
    for block in suite_of(config, name).blocks:
        points |= dict.fromkeys(map(MoETestConfig.from_id, block.cases))
        points |= dict.fromkeys(product(block, config.defaults))
    return list(points)


def plan_of(points, machine):
    """Return the ids of each world size, and the refused ids with their reasons."""
    judge, runnable, refused = Judge(machine), {}, {}
    for point in points:
        case, reason = judge(point)
        if reason is None:
            runnable[case] = None
        else:
            refused[case.id] = reason
    worlds = defaultdict(list)
    for case in runnable:
        worlds[case.world_size].append(case)
    jobs = {world: sorted(worlds[world], key=compile_key) for world in sorted(worlds)}
    return {world: [case.id for case in cases] for world, cases in jobs.items()}, refused


def texts_of(plan):
    """Return the same of a plan that was made by numbers."""
    jobs = {job.world_size: [case.id for case in job.cases] for job in plan.jobs}
    refused = zip(plan.refused.cases.ids(), plan.refused.reasons, strict=True)
    return jobs, dict(refused)
