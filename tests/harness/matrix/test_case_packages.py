"""A case's packages are those of the rows that it names, whichever is installed."""

from harness.matrix.case import MoETestConfig
from harness.matrix.case_packages import packages_of, packages_of_tables, versions_of
from moe import packages, released

CASE = MoETestConfig(m=1, n=64, k=64, num_experts=2, top_k=1, experts="torch_loop")


def test_a_case_names_the_packages_of_its_rows():
    assert packages_of([CASE]) == ()
    assert packages_of([CASE.replace(experts="triton")]) == ("triton",)
    eager = CASE.replace(experts="transformers_eager")
    grouped = CASE.replace(experts="transformers_grouped_mm")
    assert packages_of([eager, grouped]) == (released.TRANSFORMERS_EXPERTS,)


def test_a_layer_from_outside_has_no_other_experts():
    own = CASE.replace(experts="own", layer="transformers_olmoe")
    assert packages_of([own]) == (released.OLMOE,)


def test_versions_are_those_installed():
    assert versions_of(CASE) == {}
    assert versions_of(CASE.replace(experts="triton")) == {"triton": packages.version("triton")}


def test_all_tables_are_asked():
    named = packages_of_tables()
    assert {"triton", released.TORCHTITAN_EXPERTS, released.MIXTRAL} <= set(named)
    assert len(named) == len(set(named))
