"""The models of definitions and workloads: what they keep, and what stands in case ids."""

from harness.matrix.traces.trace_format import Definition, TraceLine
from tests.harness import trace_sets
from tests.harness.trace_sets import RENORM, ROUTED, E, K, N, line


def test_a_definition_tells_constant_axes_from_variable_ones():
    definition = Definition.model_validate(trace_sets.definitions()[ROUTED])
    assert definition.variable_axes == ("seq_len",)
    sizes = {"num_experts": E, "hidden_size": K, "intermediate_size": N, "num_hidden_blocks": 2}
    assert definition.sizes == sizes | {"top_k": 3}


def test_a_digest_stands_for_the_workload_and_not_for_its_results():
    data = line(RENORM)
    digest = TraceLine.model_validate(data).digest
    assert digest == TraceLine.model_validate(data | {"solution": "mine"}).digest
    data["workload"]["axes"]["seq_len"] += 1
    assert digest != TraceLine.model_validate(data).digest
