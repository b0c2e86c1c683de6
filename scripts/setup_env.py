"""Makes `.venv` ready for this tree, on a machine without a GPU with CPU builds alone.

`make setup` runs it with whatever Python >= 3.11 it finds, before anything is installed: so it
needs the standard library and this tree only. The packages are resolved first, looked at, and
then installed exactly as resolved, so that a gigabyte of CUDA libraries is refused before the
download and not after.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "ready.json"
CONSTRAINTS = ROOT / "constraints" / "cpu.txt"
INPUTS = (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__).resolve())

sys.path.insert(0, str(ROOT))

from moe.platforms.detect import devices  # noqa: E402  # standard library only


class SetupError(Exception):
    """Why the set-up cannot go on, and the way out: one line for the user."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Set up .venv, or say which suite fits here.")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, comma-separated")
    parser.add_argument("--as-is", action="store_true", help="only check this very interpreter")
    parser.add_argument("--suite", action="store_true", help="print the suite that fits")
    options = parser.parse_args(argv)
    try:
        if options.suite:
            print("ci" if devices() else "smoke")
        elif options.as_is:
            check_as_is(project())
        else:
            set_up(frozenset(filter(None, options.extras.split(","))))
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


def set_up(extras: frozenset[str]) -> None:
    """Bring `.venv` up to date; at once where nothing that it was made from has changed."""
    vendor = gpu_vendor([device.arch for device in devices({})])  # {}: hidden ones count too
    digest = fingerprint(vendor)
    extras |= _installed_extras(digest)
    if is_ready(digest, extras):
        return
    config = project()
    wanted, alone = split(requirements(config, extras | {"dev"}), without_requirements(config))
    make_venv()
    print("set-up: resolving packages ...", flush=True)
    report = resolve(wanted) if vendor == "nvidia" else resolve_without_cuda(wanted)
    pins = [*pinned(report), *alone]
    print(f"set-up: installing {len(pins)} packages ...", flush=True)
    if pins:
        pip("install", "--no-deps", *pins)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text(json.dumps({"digest": digest, "extras": sorted(extras)}))
    print("set-up: .venv is ready")


def gpu_vendor(archs: list[str]) -> str:
    """`nvidia` or `none`. Raises SetupError for AMD, whose torch no requirement can name."""
    if any(not arch.startswith("gfx") for arch in archs):
        return "nvidia"
    if archs:
        raise SetupError(
            f"this machine has an AMD GPU ({archs[0]}), and ROCm builds of torch and Triton come "
            "with its image: use the interpreter that has them: make PYTHON=/path/to/python"
        )
    return "none"


def fingerprint(vendor: str) -> str:
    """Changes when what `.venv` is made from does. Contents, not times: a checkout has new ones."""
    parts = [path.read_bytes() for path in INPUTS]
    return hashlib.sha256(b"\0".join([*parts, vendor.encode()])).hexdigest()


def _installed_extras(digest: str) -> frozenset[str]:
    """Those of an earlier set-up: a later one without them does not take them away."""
    if not STAMP.exists():
        return frozenset()
    stamp = json.loads(STAMP.read_text())
    return frozenset(stamp["extras"]) if stamp["digest"] == digest else frozenset()


def is_ready(digest: str, extras: frozenset[str]) -> bool:
    if not STAMP.exists() or not PYTHON.exists():  # a link to a Python that is gone does not exist
        return False
    return bool(json.loads(STAMP.read_text()) == {"digest": digest, "extras": sorted(extras)})


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(config: dict[str, Any], extras: frozenset[str]) -> list[str]:
    """What is to be installed: the project's needs, its build's, and those of `extras`.

    Raises SetupError for an extra that pyproject.toml does not have.
    """
    known = config["project"]["optional-dependencies"]
    unknown = sorted(extras - known.keys())
    if unknown:
        raise SetupError(f"no extra is called {unknown[0]!r} (known: {', '.join(sorted(known))})")
    optional = [line for extra in sorted(extras) for line in known[extra]]
    return [*config["build-system"]["requires"], *config["project"]["dependencies"], *optional]


def without_requirements(config: dict[str, Any]) -> frozenset[str]:
    """Names of packages that are installed without what they require."""
    return frozenset(config["tool"]["set-up"]["without-requirements"])


def split(wanted: list[str], alone: frozenset[str]) -> tuple[list[str], list[str]]:
    """Those to resolve with what they require, and those whose names are in `alone`."""
    return (
        [line for line in wanted if _name(line) not in alone],
        [line for line in wanted if _name(line) in alone],
    )


def make_venv() -> None:
    """Raises SetupError where this Python cannot make one."""
    if PYTHON.exists():
        return
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        raise SetupError(
            f"{sys.executable} has no venv module: install it (Debian and Ubuntu: python3-venv), "
            "or use an interpreter that has torch: make PYTHON=/path/to/python"
        )
    run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def resolve(wanted: list[str], *constraint: str) -> dict[str, Any]:
    """pip's report of what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        pip("install", "--dry-run", "--report", str(path), *constraint, *wanted)
        report: dict[str, Any] = json.loads(path.read_text())
    return report


def resolve_without_cuda(wanted: list[str]) -> dict[str, Any]:
    """With the versions of constraints/cpu.txt. Raises SetupError where they are CUDA builds."""
    try:
        report = resolve(wanted, "--constraint", str(CONSTRAINTS))
    except SetupError:
        # A CUDA build wants a Triton of its own: then pip speaks of a conflict, not of CUDA.
        torch = [line for line in CONSTRAINTS.read_text().split() if line.startswith("torch==")]
        refuse_cuda(resolve(torch))
        raise
    refuse_cuda(report)
    return report


def cuda_packages(report: dict[str, Any]) -> list[str]:
    """Names of NVIDIA's libraries among what pip would install."""
    names = (item["metadata"]["name"].lower() for item in report["install"])
    return sorted(name for name in names if re.match(r"(nvidia|cuda)-(?!ml-py$)", name))


def refuse_cuda(report: dict[str, Any]) -> None:
    """Raises SetupError where the report would bring CUDA libraries to a machine without a GPU."""
    found = cuda_packages(report)
    if found:
        raise SetupError(
            f"this machine has no GPU, but pip would bring {len(found)} CUDA packages "
            f"({found[0]}, ...): let PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL point at CPU builds of "
            "torch (constraints/cpu.txt names the version), or use an interpreter that has torch: "
            "make PYTHON=/path/to/python"
        )


def pinned(report: dict[str, Any]) -> list[str]:
    """`name==version` of everything that the report would install."""
    found = (item["metadata"] for item in report["install"])
    return sorted(f"{metadata['name']}=={metadata['version']}" for metadata in found)


def check_as_is(config: dict[str, Any]) -> None:
    """Raises SetupError where this interpreter lacks a package that the harness needs."""
    missing = [name for name in map(_name, config["project"]["dependencies"]) if not _has(name)]
    if missing:
        raise SetupError(
            f"{sys.executable} lacks {', '.join(missing)}: install that there, or leave PYTHON "
            "out and let make set up .venv"
        )


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, f"{requirement!r} in pyproject.toml names no package"
    return found.group()


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def pip(*arguments: str) -> None:
    run([str(PYTHON), "-m", "pip", "--quiet", "--no-input", *arguments])


def run(command: list[str]) -> None:
    """Quietly; raises SetupError with the command's own complaints where it fails."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{command[2]} failed: {complaints(done.stderr + done.stdout)}")


def complaints(output: str) -> str:
    """The lines that say what went wrong; pip's warnings about its own configuration are noise."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return "; ".join(errors or lines[-3:]) or "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
