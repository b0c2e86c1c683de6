"""Values of axes that no case has: words, names of tables, true and false; never numbers."""

from harness.matrix.case import MoETestConfig
from harness.plan.unreached import unreached
from moe.quant import QUANT

PLAIN = MoETestConfig.from_id("m:8-n:64-k:64-e:4-topk:2-experts:torch_loop")


def test_each_name_that_no_case_has_is_told():
    told = unreached([PLAIN, PLAIN.replace(padding="end", gate=True, quant="fp8_block")])
    assert told["padding"] == ("middle", "all")
    assert "gate" not in told
    assert told["expert_bias"] == ("true",)
    assert set(told["quant"]) == set(QUANT.rows) - {"none", "fp8_block"}
    assert {"m", "top_k", "router_scale", "seed"}.isdisjoint(told)


def test_without_a_case_nothing_is_reached():
    assert unreached([])["gate"] == ("false", "true")
