"""What a row calls is found in the source, with its signature, and nothing is imported."""

import sys

import pytest

from moe.package_source import Call, change, parse, source_file
from tests.moe.fake_packages import install


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return install(tmp_path, "fake_source", "1.0")


def test_a_call_is_read_from_text():
    assert parse("a.b:C.d(x, y)") == Call(module="a.b", path=("C", "d"), arguments=("x", "y"))
    assert parse("a:C") == Call(module="a", path=("C",), arguments=None)
    assert parse("a:f()").arguments == ()
    assert parse("a:C.d").name == "C.d"


@pytest.mark.parametrize("text", ["a.b", "a.b:", "a:f(x=1)", "a:f(x", ""])
def test_another_form_is_an_error_that_shows_it(text):
    with pytest.raises(ValueError, match=r"is not of the form 'package.module:Name.attribute"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "LIMIT",
        "fused",  # inside of `if`
        "dataclass",  # imported there
        "run(x, ids)",
        "run(x, ids, scale)",
        "Experts",
        "Experts(config)",
        "Experts.gate_up",  # set on self
        "Experts.forward(x, ids)",
        "Experts.plan(x)",
        "Experts.Config(hidden, experts)",
        "Experts.Config(hidden, experts, top_k)",
        "Experts.Config.top_k",
    ],
)
def test_what_is_there_fits(fake, text):
    assert change(parse(f"{fake}.experts:{text}")) is None
    assert fake not in sys.modules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run(x)", "run takes (x, ids, scale), not (x)"),
        ("run(ids, x)", "run takes (x, ids, scale), not (ids, x)"),
        ("run(x, ids, bias)", "run takes (x, ids, scale), not (x, ids, bias)"),
        ("Experts()", "Experts takes (config), not ()"),
        ("Experts.forward(x, ids, weights)", "Experts.forward takes (x, ids), not (x, ids, we"),
        ("Experts.Config(hidden)", "Experts.Config takes (hidden, experts, top_k), not (hidden)"),
        ("Experts.down", "fake_source.experts has no Experts.down"),
        ("run.inner", "fake_source.experts has no run.inner"),
        ("LIMIT(x)", "LIMIT is no function or class in fake_source.experts"),
    ],
)
def test_what_differs_is_named(fake, text, expected):
    assert expected in change(parse(f"{fake}.experts:{text}"))


def test_a_module_that_is_gone_or_cannot_be_read_is_named(fake, tmp_path):
    assert change(parse(f"{fake}.kernels:run")) == "it has no module fake_source.kernels"
    (tmp_path / fake / "torn.py").write_text("def run(:")
    assert change(parse(f"{fake}.torn:run")).startswith("fake_source.torn cannot be read: ")


def test_a_module_that_changed_is_read_again(fake, tmp_path):
    call = parse(f"{fake}.experts:added")
    assert change(call) == "fake_source.experts has no added"
    path = tmp_path / fake / "experts.py"
    path.write_text(path.read_text() + "\nadded = 1\n")
    assert change(call) is None


def test_source_is_found_without_an_import(fake, tmp_path):
    assert source_file(f"{fake}.experts") == tmp_path / fake / "experts.py"
    assert source_file(fake) == tmp_path / fake / "__init__.py"
    assert source_file("no_such_package.module") is None
    assert source_file("math") is None, "built into the interpreter"
    assert fake not in sys.modules
