"""The oracle takes the first row of the table that fits, and explains each that did not."""

import pytest

from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layout import Layout
from moe.oracle import ABSENT, DECLARED, INSTALLED, explain, select
from moe.platforms import PLATFORMS, platform
from moe.quant import QUANT
from moe.registry import Registry
from moe.spec import ANY, LayerSpec, MemberSpec, Needs, Reason

BF16 = frozenset({"bf16"})


TABLE = Registry(
    "nothing",
    (
        MemberSpec(
            name="fast", target="x:Y", needs=Needs(features=frozenset({"cuda"}), dtypes=BF16)
        ),
        MemberSpec(name="half", target="x:Y", needs=Needs(dtypes=frozenset({"fp16"}))),
        MemberSpec(name="any", target="x:Y", needs=Needs(dtypes=ANY, formats=ANY)),
        MemberSpec(name="late", target="x:Y"),
    ),
)


def layer_spec(**fields):
    plain = {"m": 4, "hidden": 128, "intermediate": 256, "num_experts": 8, "top_k": 2}
    return LayerSpec(**{**plain, **fields})


def test_the_first_that_fits_wins():
    bf16 = select(layer_spec(), platform("cuda_sm90"), family=TABLE)
    assert bf16.winner.name == "fast"
    assert bf16.refused == ()
    assert select(layer_spec(), platform("cpu"), family=TABLE).winner.name == "any"


def test_each_row_passed_over_has_its_reason():
    selection = select(layer_spec(dtype="f32"), platform("cuda_sm90"), family=TABLE)
    assert selection.winner.name == "any"
    assert [name for name, _ in selection.refused] == ["fast", "half"]
    assert [(reason.code, reason.text) for _, reason in selection.refused] == [
        ("dtype_unsupported", "takes dtype bf16, not f32"),
        ("dtype_unsupported", "takes dtype fp16, not f32"),
    ]


def test_an_explanation_answers_for_every_row():
    chip = platform("cuda_sm90")
    explanation = explain(layer_spec(dtype="f32"), chip, family=TABLE)
    assert explanation.winner == "any"
    codes = [(name, reason and reason.code) for name, reason in explanation.answers]
    unsupported = "dtype_unsupported"
    assert codes == [
        *(("fast", unsupported), ("half", unsupported), ("any", None), ("late", unsupported))
    ]
    assert explanation.platform == chip
    assert explanation.order == "the table's own order"
    assert {"torch", "triton"} <= set(explanation.versions)


def test_an_explanation_without_a_winner_has_all_reasons():
    never = Reason(code="never", text="not today")
    explanation = explain(layer_spec(), platform("cpu"), veto=lambda row: never)
    assert explanation.winner is None
    assert all(reason is not None for _, reason in explanation.answers)


NO_SUCH = Needs(packages=("no_such_package", "triton"), probe="no_such_module:probe")
WITH_PACKAGE = Registry("nothing", (MemberSpec(name="released", target="x:Y", needs=NO_SUCH),))


@pytest.mark.parametrize(
    ("packages_are", "code"),
    [(INSTALLED, "package_missing"), (DECLARED, None), (ABSENT, "package_missing")],
)
def test_packages_are_judged_as_asked(packages_are, code):
    explanation = explain(
        layer_spec(), platform("cuda_sm90"), family=WITH_PACKAGE, packages_are=packages_are
    )
    ((_, reason),) = explanation.answers
    assert (reason and reason.code) == code


def test_our_own_kernels_need_no_optional_package():
    explanation = explain(layer_spec(), platform("cuda_sm90"), packages_are=ABSENT)
    assert explanation.winner == "triton"
    answers = dict(explanation.answers)
    assert answers["vllm_triton"].text == "needs vllm"


def all_but(name):
    """Refuse every other row, so that their order and number do not matter."""
    other = Reason(code="other", text="another row")
    return lambda row: None if row.name == name else other


@pytest.mark.parametrize("quant", QUANT.rows)
@pytest.mark.parametrize("chip", [row.name for row in PLATFORMS.built_in])
def test_something_takes_every_scheme_on_every_platform(quant, chip):
    asked = layer_spec(scheme=QUANT.row(quant).scheme, dtype="f32", layout=Layout(tp_size=8))
    for table, name in ((EXPERTS, "torch_loop"), (ALL2ALL, "allgather_reducescatter")):
        selection = select(asked, platform(chip), family=table, veto=all_but(name))
        assert selection.winner.name == name


def test_a_veto_counts_like_a_need():
    slow = Reason(code="too_slow", text="takes hours")

    def veto(row):
        return slow if row.name == "fast" else None

    selection = select(layer_spec(), platform("cuda_sm90"), family=TABLE, veto=veto)
    assert selection.winner.name == "any"
    assert selection.refused[0] == ("fast", slow)


def test_no_row_left_lists_every_reason():
    never = Reason(code="never", text="not today")
    with pytest.raises(MoEError, match="no experts row supports this layer on cpu") as error:
        select(layer_spec(), platform("cpu"), veto=lambda row: never)
    assert "torch_loop: not today" in str(error.value)
