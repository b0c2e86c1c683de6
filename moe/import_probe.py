"""Import modules in a separate process, to know that they can be imported. Torch-free.

A package can be installed, in the right version, and still fail on import: a dependency is lacking,
or fits another version of torch. Only an import shows it, and that takes seconds where a plan takes
milliseconds. A success is therefore remembered on disk for as long as the installed packages, the
search path and the modules' own files stay as they are; a failure is not, since what it lacks may
be something that leaves no trace there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moe.package_source import source_file

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 120  # a first import of torch from a slow disk, and of the modules
_IMPORTS = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
_METADATA = (".dist-info", ".egg-info", ".pth")


@cache
def failure(modules: tuple[str, ...], seconds: float = SECONDS) -> str | None:
    """Return why one of the modules cannot be imported, in one line, or None if all can."""
    memory = cache_folder()
    entry = None if memory is None else memory / _key(modules)
    if entry is not None and entry.is_file():
        return None
    text = _imported(modules, seconds)
    if text is None and entry is not None:
        with contextlib.suppress(OSError):  # a folder that cannot be written costs only time
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.touch()
    return text


def cache_folder() -> Path | None:
    """Return the folder of remembered imports; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "moe-harness" / "imports"
    except RuntimeError:
        return None


def _imported(modules: tuple[str, ...], seconds: float) -> str | None:
    """Import the modules in a separate process that has this process's search path."""
    command = [sys.executable, "-P", "-c", _IMPORTS, *modules]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the import did not end within {seconds:g} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the import ended by {signal.Signals(-done.returncode).name}"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _key(modules: tuple[str, ...]) -> str:
    """Return a name that changes with anything that an import depends on."""
    facts = (sys.executable, sys.version, sys.path, modules, *_installed(), *_sources(modules))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _installed() -> Iterator[tuple[str, int]]:
    """Yield name and time of each package's metadata on the search path."""
    for folder in filter(None, sys.path):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            yield from sorted(
                (entry.path, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith(_METADATA)
            )


def _sources(modules: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield path and time of the modules' own files."""
    for module in modules:
        path = source_file(module)
        if path is not None:
            yield str(path), path.stat().st_mtime_ns
