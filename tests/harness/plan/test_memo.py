"""Needs read what they declare, so that an answer for equal values may be kept."""

import dataclasses
import functools
import random

import pytest

from harness.matrix.case import AXES, MoETestConfig
from harness.plan import refusals, row_needs
from harness.plan.machine import planned_for
from harness.plan.memo import FIELDS, Remembered, axes_read
from harness.plan.plan import make_plan
from harness.plan.refusals import Judge
from moe import families
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layers.base import LayerSubject
from moe.need import fields_read
from moe.platforms import PLATFORMS
from moe.registry import Registry
from moe.spec import ANY, LayerSpec, MemberSpec, Need, Needs, Reason, reads, resolve

PLAIN = MoETestConfig(m=4, n=128, k=128, num_experts=8, top_k=2, experts="torch_loop")
# What is asked of a row of each family, and of every case.
ASKED = {
    "experts": (row_needs.experts, row_needs.installed_experts, row_needs.interpreter_time),
    "all2all": (row_needs.all2all,),
    "quant": (row_needs.quant, row_needs.unbroken_blocks, row_needs.exact_formats),
    "router": (row_needs.router,),
    "activation": (row_needs.activation, row_needs.exact_activation),
    "layer": (row_needs.layer,),
}
OF_EVERY_CASE = (row_needs.possible, row_needs.memory)
OUTSIDE_LAYERS = ("Plain", "OnLogits")


class Plain(LayerSubject):
    takes = frozenset({"tp", "ep"})
    needs = Needs(formats=frozenset({("fp8_block", "fp8_group")}), hidden_multiple=16, max_world=2)

    def load(self, checkpoint):
        raise NotImplementedError

    def forward(self, x):
        raise NotImplementedError


class OnLogits(Plain):
    takes_logits = True
    routers = frozenset({"sigmoid"})
    needs = Needs(dtypes=ANY, formats=ANY, activation_functions=ANY, shard_multiple=8)


class DeclaredProblem:
    """A layer of which only some fields can be read."""

    def __init__(self, layer_spec, fields):
        self._layer_spec, self._fields = layer_spec, fields

    def __getattr__(self, name):
        part = getattr(LayerSpec, name, None)
        if isinstance(part, property):
            return part.fget(self)
        if name not in self._fields:
            raise LookupError(f"reads {name}, which is not declared")
        return getattr(self._layer_spec, name)


@functools.cache
def spec_of(case):
    """Of the same few cases many needs ask for it."""
    return case.layer_spec


class DeclaredCase:
    """A case of which only the axes can be read that some needs declare."""

    def __init__(self, case, need, axes):
        self._case, self._need, self._axes = case, need, axes

    def __getattr__(self, name):
        if name not in self._axes:
            raise LookupError(f"reads {name}, which is not declared")
        return getattr(self._case, name)

    @property
    def layer_spec(self):
        fields = FIELDS if self._need.reads is None else self._need.reads
        return DeclaredProblem(spec_of(self._case), fields)


def machines():
    for row in PLATFORMS:
        planned = planned_for(row.name)
        yield from (planned, dataclasses.replace(planned, planned=False))


def rows():
    """(family, name) of every row in every table, and of layers from outside."""
    for family, table in families.tables(families.CASE_FAMILIES):
        yield from ((family, name) for name in table.rows)
    yield from (("layer", f"{__name__}:{name}") for name in OUTSIDE_LAYERS)


def sample(count, seed=0):
    """Random cases, many of which are refused, for many reasons."""
    pick = random.Random(seed)
    names = {family: tuple(table.rows) for family, table in families.tables()}
    values = {
        "m": (1, 5, 4000, 10**7),
        "n": (64, 100, 256, 4096),
        "k": (3, 64, 100, 128, 2048),
        "num_experts": (1, 8, 300),
        "top_k": (1, 2, 9),
        "shared_experts": (0, 1),
        "shared_width": (0, 0, 0, 96),
        "shared_quant": ("none", "none", *names["quant"]),
        "shared_gate": (False, False, True),
        "shared_fused": (False, False, True),
        "zero_experts": (0, 0, 0, 3),
        "latent": (0, 0, 0, 96),
        "adapters": (0, 0, 0, 2),
        "dp_size": (1, 2, 3),
        "tp_size": (1, 2, 80),
        "dtype": ("bf16", "fp16", "f32"),
        "use_ep": (False, True),
        "sequence_parallel": (False, True),
        "renormalize": (False, True),
        "router_bias": (False, False, False, True),
        "router_groups": (1, 1, 1, 2),
        "router_scale": (1.0, 1.0, 1.0, 2.5),
        "logits_dtype": ("model", "model", "model", "f32"),
        "weights_input": (False, False, False, True),
        "gate": (False, False, False, True),
        "padding": ("none", "none", "none", "end"),
        "roundup": (1, 1, 64),
        "chunk": (0, 0, 3),
        "capacity": (0, 0, 0, 600),
        "exact": (False, False, True),
        **{name: names[name] for name in ("all2all", "quant", "router", "activation")},
        "experts": (*names["experts"], "auto"),
    }
    for number in range(count):
        case = PLAIN.replace(**{name: pick.choice(some) for name, some in values.items()})
        if number % 4 == 0:
            layer = f"{__name__}:{pick.choice(OUTSIDE_LAYERS)}"
            case = case.replace(experts="own", all2all=PLAIN.all2all, layer=layer)
        yield case


@functools.cache
def sampled():
    return tuple(sample(80))


def check_reads(need, cases):
    """Raises LookupError for a field that is read and not declared."""
    remembered = Remembered((need,))
    for case in cases:
        limited = DeclaredCase(case, need, remembered.axes)
        refused = need.refuse(spec_of(case))
        assert Remembered((need,))(limited) == refused
        assert remembered(limited) == refused


def test_every_family_of_a_case_is_asked():
    assert tuple(ASKED) == families.CASE_FAMILIES


@pytest.mark.parametrize(("family", "name"), list(rows()))
def test_a_need_reads_no_axis_that_it_does_not_declare(family, name):
    cases = sampled()
    for machine in machines():
        for needs_of in ASKED[family]:
            for need in needs_of(machine, name):
                check_reads(need, cases)


@pytest.mark.parametrize(
    "row", [row for _, table in families.tables() for row in table if row.needs.probe]
)
def test_a_probe_reads_what_it_declares_on_a_machine_without_its_package_too(row):
    probe = resolve(row.needs.probe)
    for platform in (machine.platform for machine in machines()):
        need = Need(
            reads=fields_read(probe), refuse=lambda layer_spec, on=platform: probe(layer_spec, on)
        )
        check_reads(need, sampled())


@pytest.mark.parametrize("needs_of", OF_EVERY_CASE)
def test_what_every_case_needs_reads_no_axis_that_it_does_not_declare(needs_of):
    for machine in machines():
        for need in needs_of(machine, ""):
            check_reads(need, sampled())


def narrow(layer_spec, platform):
    return Reason(code="narrow", text=f"{layer_spec.hidden}") if layer_spec.top_k > 1 else None


@pytest.fixture
def probed(monkeypatch):
    """Has the table of experts one row with this probe."""

    def probed(declared):
        function = declared(lambda layer_spec, platform: narrow(layer_spec, platform))
        monkeypatch.setitem(globals(), "probe", function)
        plain = {"formats": ANY, "dtypes": ANY, "activation_functions": ANY, "layer_features": ANY}
        needs = Needs(
            probe=f"{__name__}:probe", dequantizes=True, padding=True, adapters=True, **plain
        )
        table = Registry("experts", ())
        table._rows = {"probed": MemberSpec(name="probed", target="json:loads", needs=needs)}
        monkeypatch.setattr(row_needs, "EXPERTS", table)
        *_, need = row_needs.experts(
            dataclasses.replace(planned_for("cpu"), planned=False), "probed"
        )
        return need

    return probed


def test_a_probe_that_reads_more_than_it_declares_does_not_go_unnoticed(probed):
    with pytest.raises(LookupError, match="reads hidden, which is not declared"):
        check_reads(probed(reads("top_k")), [PLAIN])
    check_reads(probed(reads("top_k", "hidden")), [PLAIN])


def test_a_probe_that_declares_nothing_may_read_everything(probed):
    need = probed(lambda function: function)
    assert need.reads is None
    assert set(axes_read([need])) >= {"m", "k", "n", "top_k", "router", "quant", "tp_size"}
    check_reads(need, sample(40))


def test_a_field_that_no_layer_spec_has_is_named(probed):
    with pytest.raises(
        MoEError, match=r"a need reads 'hiden', which no layer spec has; choose from "
    ):
        Remembered((probed(reads("hiden")),))


@pytest.mark.parametrize("features", [frozenset({"no_such"}), frozenset()])
def test_a_probe_is_not_loaded_where_something_else_is_lacking(features):
    needs = Needs(probe="no_such_module:probe", features=features, packages=("no_such_package",))
    reason = needs.refusal(PLAIN.layer_spec, planned_for("cpu").platform)
    assert reason.code == ("platform_lacks_feature" if features else "package_missing")


CHANGED = {
    "router": "sigmoid",
    "activation": "gelu_tanh",
    "quant": "fp8_block",
    "shared_quant": "fp8_block",
    "shared_gate": True,
    "shared_fused": True,
    "dtype": "f32",
    "renormalize": False,
    "use_ep": True,
    "sequence_parallel": True,
    "exact": True,
    "experts": "triton",
    "all2all": "local",
    "tokens": "ragged",
    "layer": "elsewhere:Layer",
    "missing": "router_groups",
    "router_bias": True,
    "expert_bias": True,
    "router_scale": 2.5,
    "weights_input": True,
    "gate": True,
    "call": "graph",
    "tactic": "m16n32k64",
    "trace": "0123456789ab",
}


# An axis with a single value, such as the call mode, cannot change a field.
CHANGEABLE = [axis.name for axis in AXES.values() if len(axis.choices) != 1]


@pytest.mark.parametrize("axis", CHANGEABLE)
def test_the_axes_of_a_field_are_those_that_change_it(axis):
    word = next(iter(AXES[axis].choices[1:]), 7)
    changed = PLAIN.replace(**{axis: CHANGED.get(axis, word)})
    fields = {f for f in FIELDS if getattr(changed.layer_spec, f) != getattr(PLAIN.layer_spec, f)}
    decided = {f for f in FIELDS if axis in axes_read([Need(reads={f}, refuse=lambda _: None)])}
    assert fields == decided


@pytest.mark.parametrize("machine", list(machines()), ids=lambda m: f"{m.platform.name}{m.planned}")
def test_answers_that_were_kept_are_the_same_as_new_ones(machine):
    cases = list(sample(1500, seed=1))
    random.Random(2).shuffle(cases)
    judge = Judge(machine)
    kept = [judge(case) for case in cases]
    assert kept == [Judge(machine)(case) for case in cases]
    assert len({reason and reason.code for _, reason in kept}) > 8


def test_a_need_is_asked_once_for_equal_values(monkeypatch):
    asked = []
    seconds = row_needs.cost.interpreted_seconds
    monkeypatch.setattr(
        row_needs.cost, "interpreted_seconds", lambda p, cores: asked.append(p) or seconds(p, cores)
    )
    points = [
        PLAIN.replace(experts="triton", seed=seed, m=m, router=router, tokens=tokens)
        for seed in range(5)
        for m in (1, 2)
        for router in ("softmax", "sigmoid")
        for tokens in ("even", "ragged")
    ]
    assert len(make_plan(points, planned_for("cpu")).cases) == len(points)
    assert [layer_spec.m for layer_spec in asked] == [1, 2]


def test_no_layer_spec_is_built_where_all_values_were_met(monkeypatch):
    built = []
    make = MoETestConfig.layer_spec.func
    monkeypatch.setattr(
        MoETestConfig, "layer_spec", property(lambda case: built.append(case) or make(case))
    )
    judge = Judge(planned_for("cpu"))
    judge(PLAIN)
    first = len(built)
    assert first > 0
    assert judge(PLAIN.replace(seed=3, tokens="ragged"))[1] is None
    assert len(built) == first


def test_auto_without_any_backend_lists_every_reason(monkeypatch):
    table = Registry("experts", ())
    table._rows = {name: EXPERTS.row(name) for name in ("triton", "torch_grouped")}
    for module in (refusals, row_needs):
        monkeypatch.setattr(module, "EXPERTS", table)
    monkeypatch.setitem(refusals.select.__kwdefaults__, "family", table)
    judge = Judge(planned_for("cpu"))
    with pytest.raises(MoEError, match="no experts row supports this layer on cpu: triton: "):
        judge(PLAIN.replace(experts="auto", dtype="f32"))
