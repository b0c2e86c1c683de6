"""An import is tried in a process of its own; only a success is remembered."""

import subprocess
import sys

import pytest

from moe import import_probe
from tests.moe.fake_packages import install


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    import_probe.failure.cache_clear()
    yield tmp_path / "site"
    import_probe.failure.cache_clear()


@pytest.fixture
def started(monkeypatch):
    """Count the processes that the probe starts."""
    commands, run = [], subprocess.run

    def counted(command, **options):
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(import_probe.subprocess, "run", counted)
    return commands


def again(modules):
    """Ask as a new process would, which remembers only what is on disk."""
    import_probe.failure.cache_clear()
    return import_probe.failure(modules)


def test_a_success_is_remembered_on_disk(folder, started):
    modules = (f"{install(folder, 'probe_fits', '1.0')}.experts",)
    assert import_probe.failure(modules) is None
    assert len(list(import_probe.cache_folder().iterdir())) == 1
    assert again(modules) is None
    assert len(started) == 1
    assert "probe_fits" not in sys.modules


def test_a_failure_names_the_error_and_is_asked_again(folder, started):
    modules = (f"{install(folder, 'probe_breaks', '1.0', 'import no_such_package')}.experts",)
    assert import_probe.failure(modules) == (
        "ModuleNotFoundError: No module named 'no_such_package'"
    )
    assert import_probe.failure(modules) is not None
    assert len(started) == 1, "once in a process"
    assert again(modules) is not None
    assert len(started) == 2


def test_another_version_or_an_edited_module_is_asked_again(folder, started):
    name = install(folder, "probe_changes", "1.0")
    modules = (f"{name}.experts",)
    assert import_probe.failure(modules) is None
    (folder / "probe_changes-1.0.dist-info").rename(folder / "probe_changes-2.0.dist-info")
    assert again(modules) is None
    (folder / name / "experts.py").write_text("raise OSError('no driver')")
    assert again(modules) == "OSError: no driver"
    assert len(started) == 3


def test_a_process_that_dies_or_hangs_is_a_failure(folder):
    dies = "import os\nos.kill(os.getpid(), 11)"
    modules = (f"{install(folder, 'probe_dies', '1.0', dies)}.experts",)
    assert import_probe.failure(modules) == "the import ended by SIGSEGV"
    hangs = "import time\ntime.sleep(60)"
    modules = (f"{install(folder, 'probe_hangs', '1.0', hangs)}.experts",)
    text = "the import did not end within 0.5 s"
    assert import_probe.failure(modules, seconds=0.5) == text
    silent = "raise SystemExit(3)"
    modules = (f"{install(folder, 'probe_ends', '1.0', silent)}.experts",)
    assert import_probe.failure(modules) == "exit code 3"


def test_a_cache_that_cannot_be_written_costs_only_time(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    modules = (f"{install(folder, 'probe_unkept', '1.0')}.experts",)
    assert import_probe.failure(modules) is None


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(import_probe.Path, "home", no_home)
    assert import_probe.cache_folder() is None
