"""Declare the packages that a row needs, and refuse those that will not do. Torch-free.

That a name can be imported says little: it may be an older version, a newer one with another
signature, another package of the same name, or one whose own dependencies are lacking. Each is
refused with a code of its own, and never by a traceback in a rank. The cheap questions come first:
metadata, then the source (`moe.package_source`), and at last an import in a separate process
(`moe.import_probe`), since a plan imports neither torch nor what uses it.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from moe import import_probe, package_source
from moe.reason import Reason

_RELEASE = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class Package:
    """Declare what a row needs of one package.

    Raises ValueError for a version that starts with no number, and for a call of another form.
    """

    distribution: str  # as installers name it
    module: str  # top-level name to import
    at_least: str | None = None  # oldest version that will do
    below: str | None = None  # first version that will not
    why: str = ""  # why not an older or newer version, for the reason
    calls: tuple[str, ...] = ()  # what the row calls: see `moe.package_source`
    imports: tuple[str, ...] | None = None  # modules that must import; None: those of `calls`

    def __post_init__(self) -> None:
        for version in filter(None, (self.at_least, self.below)):
            release(version)
        for call in self.calls:
            package_source.parse(call)

    @property
    def range(self) -> str:
        """Return the versions that will do, as a requirement: `name>=1.2,<2`."""
        limits = ((">=", self.at_least), ("<", self.below))
        return self.distribution + ",".join(sign + limit for sign, limit in limits if limit)

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules that must import."""
        if self.imports is not None:
            return self.imports
        return tuple(dict.fromkeys(package_source.parse(call).module for call in self.calls))


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without trailing zeros; `2.10.0rc1+cpu` is (2, 10).

    A pre-release counts as its release. Raises ValueError for a version without numbers.
    """
    match = _RELEASE.match(version)
    if match is None:
        raise ValueError(f"version {version!r} starts with no number")
    numbers = [int(number) for number in match.group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def version(distribution: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: tuple[Package | str, ...]) -> dict[str, str]:
    """Return distribution -> installed version, of those that have one."""
    names = (p if isinstance(p, str) else p.distribution for p in packages)
    return {name: number for name in names if (number := version(name)) is not None}


@cache
def refusal(package: Package | str) -> Reason | None:
    """Return why a package will not do, or None. A str is a name that must be importable."""
    if isinstance(package, str):
        return _not_importable(package)
    return _not_installed(package) or _changed(package) or _broken(package)


def _not_importable(module: str) -> Reason | None:
    if importlib.util.find_spec(module) is not None:
        return None
    return Reason(code="package_missing", text=f"package {module!r} is not installed")


def _not_installed(package: Package) -> Reason | None:
    """Refuse a package that is not there, is another of that name, or has another version."""
    name, number = package.distribution, version(package.distribution)
    is_there = importlib.util.find_spec(package.module) is not None
    if number is None and is_there:
        return _of_another(package)
    if number is None or not is_there:
        text = f"package {name!r} is not installed; needs {package.range}"
        return Reason(code="package_missing", text=text)
    if _RELEASE.match(number) is None:
        text = f"{name} has the version {number!r}, without a number; needs {package.range}"
        return Reason(code="package_version_unknown", text=text)
    need = f"needs {package.range}" + (f" ({package.why})" if package.why else "")
    if package.at_least is not None and release(number) < release(package.at_least):
        return Reason(code="package_too_old", text=f"{name} {number} is too old: {need}")
    if package.below is not None and release(number) >= release(package.below):
        return Reason(code="package_too_new", text=f"{name} {number} is too new: {need}")
    return None


def _of_another(package: Package) -> Reason:
    """Refuse a module of the right name that the named package did not install."""
    owners = metadata.packages_distributions().get(package.module, ())
    text = (
        f"module {package.module!r} is of {' and '.join(sorted(set(owners)))}, another package "
        f"than {package.distribution}; needs {package.range}"
        if owners
        else f"module {package.module!r} is installed without metadata, so that its version is "
        f"unknown; install {package.range}"
    )
    code = "package_is_another" if owners else "package_version_unknown"
    return Reason(code=code, text=text)


def _changed(package: Package) -> Reason | None:
    """Refuse a package whose source does not have what the row calls."""
    for text in package.calls:
        change = package_source.change(package_source.parse(text))
        if change is not None:
            return Reason(code="package_changed", text=f"{_named(package)} has changed: {change}")
    return None


def _broken(package: Package) -> Reason | None:
    """Refuse a package that cannot be imported."""
    failure = import_probe.failure(package.modules) if package.modules else None
    if failure is None:
        return None
    text = f"{_named(package)} is installed, but cannot be imported: {failure}"
    return Reason(code="package_broken", text=text)


def _named(package: Package) -> str:
    return f"{package.distribution} {version(package.distribution)}"
