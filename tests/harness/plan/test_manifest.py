"""What `run.json` records of a run, and the names of folders."""

import json
import platform
import re
import subprocess
from datetime import UTC, datetime
from types import SimpleNamespace

import hypothesis
import pytest

from harness import cli
from harness.plan import manifest
from tests.harness.console import the_folder


def test_run_json_says_what_was_asked(engine):
    cli.main(["run", "--suite", "smoke", "--time-limit", "5"])
    info = json.loads((the_folder().path / "run.json").read_text())
    assert info["suite"] == "smoke"
    assert info["argv"] == ["run", "--suite", "smoke", "--time-limit", "5"]
    assert info["options"] == {
        "time_limit": 5.0,
        "retries": 1,
        "save_tensors": False,
        "plain_call": False,
        "undeclared": False,
    }
    assert info["versions"]["python"].startswith("3.")
    assert "torch" in info["versions"]
    assert info["platform"]["name"] == "cpu"
    assert info["git"] is None
    (refused,) = info["refused"]
    assert refused["code"] == "platform_lacks_feature"


def git(folder, *arguments):
    name = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_revision_says_whether_files_differ_from_it(tmp_path):
    assert manifest.git_revision(tmp_path) is None
    git(tmp_path, "init")
    assert manifest.git_revision(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "x")
    revision = manifest.git_revision(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", revision)
    (tmp_path / "file").write_text("2")
    assert manifest.git_revision(tmp_path) == f"{revision}-dirty"


def test_a_machine_without_git_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest.git_revision(tmp_path) is None


def test_packages_that_are_not_installed_have_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("pytest", "no-such-package"))
    assert manifest.versions() == {
        "python": platform.python_version(),
        "pytest": pytest.__version__,
    }


def test_packages_of_members_have_their_version_too():
    installed = manifest.versions(("hypothesis", "no-such-package"))
    assert installed["hypothesis"] == hypothesis.__version__
    assert "no-such-package" not in installed
    assert installed["torch"]


def test_a_folder_s_name_is_the_time_and_never_one_that_is_taken(tmp_path, monkeypatch):
    noon = datetime(2026, 11, 21, 12, 0, 1, tzinfo=UTC)
    monkeypatch.setattr(manifest, "datetime", SimpleNamespace(now=lambda zone: noon))
    for name in ("smoke", "smoke-2", "smoke-3"):
        path = manifest.folder_for(tmp_path, "smoke")
        assert path == tmp_path / f"20261121T120001Z-{name}"
        path.mkdir()
