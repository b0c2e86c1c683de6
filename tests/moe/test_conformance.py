"""Every row of every table does what it says: it loads, has a name of its own, and refuses."""

import dataclasses
import inspect
import itertools
import math

import pytest
import torch

from harness.matrix.case import MoETestConfig
from moe import needs as needs_module
from moe.all2all import ALL2ALL
from moe.all2all.base import PrepareFinalize
from moe.experts import EXPERTS
from moe.experts.base import BatchedExperts, Experts, ExpertsBase, MonolithicExperts, check_set_up
from moe.formats import FORMATS
from moe.layout import Layout
from moe.platforms import PLATFORMS, platform
from moe.quant import QUANT
from moe.quant.base import QuantMethod
from moe.reason import Reason
from moe.routers import ROUTERS
from moe.spec import (
    ANY,
    BATCHED,
    DTYPE_BYTES,
    MODULAR,
    MONOLITHIC,
    STANDARD,
    LayerSpec,
    Needs,
    Platform,
    Scheme,
    experts_refusal,
)
from tests.moe.reference.residuals import case

pytestmark = pytest.mark.usefixtures("one_thread")
BASES = ((EXPERTS, ExpertsBase), (ALL2ALL, PrepareFinalize), (QUANT, QuantMethod))
ROWS = [(table, base, row) for table, base in BASES for row in table]
TAKES_ANYTHING = Needs(dtypes=ANY, formats=ANY)
WITH_NEEDS = [row for _, _, row in ROWS if row.needs != TAKES_ANYTHING]


def row_id(value):
    return getattr(value, "name", "")


# --- loading and names


@pytest.mark.parametrize(("table", "base", "row"), ROWS, ids=row_id)
def test_a_row_loads_a_whole_class_of_its_family(table, base, row):
    loaded = table.load(row.name)
    assert issubclass(loaded, base)
    assert not inspect.isabstract(loaded), "every abstract method is there"
    module = row.target.partition(":")[0]
    assert loaded.__module__ == module
    assert module.startswith(f"moe.{table.family}.") or row not in table._own, "one folder a family"


BASE_OF = {
    (MODULAR, STANDARD): Experts,
    (MODULAR, BATCHED): BatchedExperts,
    (MONOLITHIC, STANDARD): MonolithicExperts,
}


@pytest.mark.parametrize("row", list(EXPERTS), ids=row_id)
def test_experts_are_called_as_the_kind_and_the_format_of_their_row_say(row):
    assert issubclass(EXPERTS.load(row.name), BASE_OF[row.kind, row.dispatch_format])


@pytest.mark.parametrize("row", list(EXPERTS), ids=row_id)
def test_a_constructor_sets_up_its_base_class(row):
    layer_spec = fitting(row.needs)
    quant = next(q for q in QUANT if q.scheme.weights == layer_spec.scheme.weights)
    made = EXPERTS.load(row.name)(layer_spec, 0, row.numerics, QUANT.load(quant.name)())
    check_set_up(made)
    assert made.layer_spec is layer_spec


@pytest.mark.parametrize("row", list(PLATFORMS), ids=row_id)
def test_a_platform_s_row_gives_that_platform(row):
    made = platform(row.name)
    assert isinstance(made, Platform)
    assert made.name == row.name
    assert made.device in ("cpu", "cuda")


@pytest.mark.parametrize(("table", "base", "row"), ROWS, ids=row_id)
def test_a_name_is_one_token_of_a_case_id(table, base, row):
    field = {"experts": "experts", "all2all": "all2all", "quant": "quant"}[table.family]
    point = case(**{field: row.name})
    assert MoETestConfig.from_id(point.id) == point
    assert getattr(MoETestConfig.from_id(point.id), field) == row.name


def test_names_are_unique_over_all_tables():
    names = [row.name for table, _ in BASES for row in table.built_in]
    assert len(set(names)) == len(names)


def test_each_family_has_a_member_that_takes_anything():
    assert EXPERTS.row("torch_loop").needs == Needs(
        dtypes=ANY,
        formats=ANY,
        dequantizes=True,
        activation_functions=ANY,
        layer_features=frozenset({"fused_shared", "expert_bias", "zero_experts", "latent"}),
        padding=True,
        adapters=True,
        moe_tp=True,
        eplb=True,
        call_modes=frozenset({"two_batches"}),
    )
    any_rows = dataclasses.replace(
        TAKES_ANYTHING,
        padding=True,
        adapters=True,
        moe_tp=True,
        spanning_scales=True,
        eplb=True,
        call_modes=frozenset({"two_batches"}),
        alone_call_modes=frozenset({"compile", "graph"}),
    )
    assert ALL2ALL.row("allgather_reducescatter").needs == any_rows
    assert all(row.needs == TAKES_ANYTHING for row in QUANT.built_in)


# --- needs


def named(needs: Needs) -> tuple[set[str], set[tuple[str, str]]]:
    """The dtypes and the pairs of formats that these needs take, out of all that there are."""
    pairs = itertools.product(FORMATS.rows, FORMATS.rows)
    return (
        {dtype for dtype in DTYPE_BYTES if dtype in needs.dtypes},
        {pair for pair in pairs if pair in needs.formats},
    )


def fitting(needs: Needs) -> LayerSpec:
    """A layer that a row with these needs takes, every size at its smallest."""
    dtypes, pairs = named(needs)
    weights, activations = sorted(pairs)[0]
    aligned = (row for row in needs.alignments if weights in row.weights)
    sizes = [(needs.hidden_multiple, needs.shard_multiple), *((a.hidden, a.shard) for a in aligned)]
    hidden, shard = (math.lcm(*multiples) for multiples in zip(*sizes, strict=True))
    return LayerSpec(
        m=4,
        hidden=hidden,
        intermediate=shard,
        num_experts=8,
        top_k=2,
        dtype=sorted(dtypes)[0],
        scheme=Scheme(weights=weights, activations=activations),
        layout=Layout(tp_size=needs.max_world or 1, use_ep=True),
    )


def violations(row):
    """(what is changed, changed layer spec, platform, code, text) for each need of the row."""
    needs, good = row.needs, fitting(row.needs)
    chip = Platform(name="chip", device="cuda", features=needs.features)
    for feature in sorted(needs.features):
        poor = dataclasses.replace(chip, features=needs.features - {feature})
        text = f"needs {feature}, which chip does not have"
        yield feature, good, poor, "platform_lacks_feature", text
    dtypes, pairs = named(needs)
    for weights, activations in sorted(set(itertools.product(FORMATS.rows, FORMATS.rows)) - pairs):
        bad = dataclasses.replace(good, scheme=Scheme(weights=weights, activations=activations))
        what = "activation" if weights in {w for w, _ in pairs} else "weight"
        text = f"{what}_format "
        yield f"{weights}+{activations}", bad, chip, f"{what}_format_unsupported", text
    for dtype in sorted(set(DTYPE_BYTES) - dtypes):
        bad = dataclasses.replace(good, dtype=dtype)
        yield dtype, bad, chip, "dtype_unsupported", f", not {dtype}"
    for router in sorted({row.name for row in ROUTERS} - set(needs.routers or ())):
        if needs.routers is not None and needs.routers != ANY:
            bad = dataclasses.replace(good, router=router)
            yield router, bad, chip, "router_unsupported", f", not {router}"
    sizes = (("hidden", good.hidden), ("intermediate", good.intermediate))
    for field, multiple in sizes:
        if multiple > 1:
            bad = dataclasses.replace(good, **{field: multiple + 1})
            text = f"size {multiple + 1} is not a multiple of {multiple}"
            yield field, bad, chip, "size_not_multiple", text
    if needs.max_world is not None:
        bad = dataclasses.replace(good, layout=Layout(dp_size=needs.max_world + 1, use_ep=True))
        text = f"serves at most {needs.max_world} rank(s), not {needs.max_world + 1}"
        yield "world", bad, chip, "too_many_ranks", text


TAKES_LESS = [row for row in WITH_NEEDS if any(violations(row))]


@pytest.mark.parametrize("row", TAKES_LESS, ids=row_id)
def test_needs_that_do_not_hold_are_refused(row):
    refusal = experts_refusal if row in list(EXPERTS) else Needs.refusal
    # Thousands in all: they are not a test each.
    for what, layer_spec, chip, code, text in violations(row):
        reason = refusal(dataclasses.replace(row.needs, dequantizes=True), layer_spec, chip)
        assert reason is not None, what
        assert (what, reason.code) == (what, code)
        assert text in reason.text, what


@pytest.mark.parametrize("row", WITH_NEEDS, ids=row_id)
def test_what_fits_is_not_refused(row, monkeypatch):
    monkeypatch.setattr(needs_module, "package_refusal", lambda package: None)
    chip = Platform(name="chip", device="cuda", features=row.needs.features)
    needs = dataclasses.replace(row.needs, probe=None)  # of what is installed here
    assert needs.refusal(fitting(row.needs), chip) is None


PACKAGES = [(row, package) for row in WITH_NEEDS for package in row.needs.packages]


@pytest.mark.parametrize(("row", "package"), PACKAGES)
def test_a_package_that_will_not_do_is_the_reason(row, package, monkeypatch):
    expected = Reason(code="package_missing", text="as the package's own check says")
    refused = {package: expected}
    monkeypatch.setattr(needs_module, "package_refusal", refused.get)
    chip = Platform(name="chip", device="cuda", features=row.needs.features)
    assert row.needs.refusal(fitting(row.needs), chip) == expected


@pytest.mark.parametrize("again", [False, True])
def test_draws_are_the_same_in_every_test(again):
    first = torch.Generator().manual_seed(0)
    assert torch.equal(torch.randn(3), torch.randn(3, generator=first))


@pytest.mark.parametrize("row", list(EXPERTS), ids=row_id)
@pytest.mark.parametrize("chip_name", [row.name for row in PLATFORMS])
def test_fp8_codes_are_multiplied_only_where_units_take_their_encoding(row, chip_name):
    chip = platform(chip_name)
    plain = {"features": frozenset(), "packages": (), "probe": None, "alignments": ()}
    needs = dataclasses.replace(row.needs, **plain)
    for pair in named(needs)[1]:
        encodings = {FORMATS[name].grid for name in pair} & {"e4m3", "e4m3fnuz"}
        if not encodings:
            continue
        missing = {f"fp8_{grid}" for grid in encodings} - chip.features
        supported = not missing or needs.dequantizes
        scheme = Scheme(weights=pair[0], activations=pair[1])
        reason = experts_refusal(needs, dataclasses.replace(fitting(needs), scheme=scheme), chip)
        assert (reason is None) == supported, pair
        if reason is not None:
            assert reason.code == "platform_lacks_feature"
            assert any(f" codes, which needs {name}; " in reason.text for name in missing)
