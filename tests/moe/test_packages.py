"""Each way in which a package will not do is refused with its own code, version and reason."""

import pytest

from moe import import_probe, packages
from moe.needs import Needs
from moe.packages import Package, refusal, release, versions
from tests.moe.fake_packages import install
from tests.moe.test_needs import CHIP, layer_spec

CALL = "experts:Experts.forward(x, ids)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    import_probe.failure.cache_clear()
    refusal.cache_clear()
    yield tmp_path / "site"
    refusal.cache_clear()
    import_probe.failure.cache_clear()


def package(name, *calls, **fields):
    fields = {"distribution": name, "at_least": "1.2", "below": "3", **fields}
    return Package(module=name, calls=tuple(f"{name}.{call}" for call in calls), **fields)


def test_a_package_that_fits_refuses_nothing(folder):
    fits = package(install(folder, "fake_fits", "1.2.1"), CALL)
    assert refusal(fits) is None
    assert Needs(packages=(fits, "json")).refusal(layer_spec(), CHIP) is None


@pytest.mark.parametrize(
    ("name", "version", "call", "code", "text"),
    [
        (
            "fake_old",
            "1.1.9",
            CALL,
            "package_too_old",
            "fake_old 1.1.9 is too old: needs fake_old>=1.2,<3 (as tested)",
        ),
        (
            "fake_new",
            "3.0",
            CALL,
            "package_too_new",
            "fake_new 3.0 is too new: needs fake_new>=1.2,<3 (as tested)",
        ),
        (
            "fake_changed",
            "2.0",
            "experts:Experts.forward(x, ids, weights)",
            "package_changed",
            "fake_changed 2.0 has changed: Experts.forward takes (x, ids), not (x, ids, weights)",
        ),
        (
            "fake_gone",
            "2.0",
            "kernels:run",
            "package_changed",
            "fake_gone 2.0 has changed: it has no module fake_gone.kernels",
        ),
        (
            "fake_unknown",
            None,
            CALL,
            "package_version_unknown",
            "module 'fake_unknown' is installed without metadata, so that its version is unknown; "
            "install fake_unknown>=1.2,<3",
        ),
        (
            "fake_untagged",
            "unknown",
            CALL,
            "package_version_unknown",
            "fake_untagged has the version 'unknown', without a number; "
            "needs fake_untagged>=1.2,<3",
        ),
    ],
)
def test_what_will_not_do_is_named(folder, name, version, call, code, text):
    install(folder, name, version)
    reason = refusal(package(name, call, why="as tested"))
    assert (reason.code, reason.text) == (code, text)


def test_a_package_that_cannot_be_imported_is_refused_with_its_error(folder):
    source = "import no_such_dependency\n\ndef run(x):\n    return x\n"
    name = install(folder, "fake_broken", "2.0", source)
    reason = refusal(package(name, "experts:run(x)"))
    assert (reason.code, reason.text) == (
        "package_broken",
        "fake_broken 2.0 is installed, but cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_dependency'",
    )


def test_another_package_of_the_same_module_is_told_apart(folder):
    install(folder, "fake_shared", "0.13", distribution="another-fake")
    reason = refusal(package("fake_shared", distribution="amd-fake", below=None))
    assert (reason.code, reason.text) == (
        "package_is_another",
        "module 'fake_shared' is of another-fake, another package than amd-fake; "
        "needs amd-fake>=1.2",
    )


def test_a_package_that_is_not_there_is_missing(folder):
    reason = refusal(package("fake_absent"))
    assert (reason.code, reason.text) == (
        "package_missing",
        "package 'fake_absent' is not installed; needs fake_absent>=1.2,<3",
    )


def test_metadata_without_the_module_is_missing(folder):
    install(folder, "fake_emptied", "2.0")
    (folder / "fake_emptied").rename(folder / "elsewhere")
    assert refusal(package("fake_emptied")).code == "package_missing"


def test_nothing_is_imported_before_the_source_fits(folder, monkeypatch):
    monkeypatch.setattr(import_probe.subprocess, "run", lambda *_, **__: pytest.fail("imported"))
    install(folder, "fake_early", "1.0")
    assert refusal(package("fake_early", CALL)).code == "package_too_old"
    install(folder, "fake_late", "2.0")
    assert refusal(package("fake_late", "experts:gone")).code == "package_changed"
    assert refusal(package("fake_late")) is None, "nothing is called: nothing to import"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2", (2,)),
        ("2.10.0", (2, 10)),
        ("2.10.0rc1+cpu", (2, 10)),
        ("0.3.0.dev7", (0, 3)),
        ("0", ()),
    ],
)
def test_versions_compare_by_their_numbers(version, numbers):
    assert release(version) == numbers


def test_a_declaration_that_cannot_be_checked_is_an_error():
    with pytest.raises(ValueError, match="version 'newest' starts with no number"):
        Package(distribution="a", module="a", at_least="newest")
    with pytest.raises(ValueError, match="not of the form"):
        Package(distribution="a", module="a", calls=("a.b",))


def test_the_modules_to_import_are_those_of_the_calls_unless_they_are_named():
    calls = ("a.b:c", "a.b:d", "a.e:f")
    assert Package(distribution="a", module="a", calls=calls).modules == ("a.b", "a.e")
    named = Package(distribution="a", module="a", calls=calls, imports=("a.g",))
    assert named.modules == ("a.g",)


def test_versions_are_those_of_installed_packages(folder):
    install(folder, "fake_listed", "1.5", distribution="fake-listed")
    listed = package("fake_listed", distribution="fake-listed")
    assert versions((listed, package("fake_absent"), "pytest", "json")) == {
        "fake-listed": "1.5",
        "pytest": packages.version("pytest"),
    }
