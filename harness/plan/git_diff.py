"""List the files that differ from a commit, as git tells them. No torch."""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Files that differ from a commit: committed since, changed, deleted, or not yet added."""

    revision: str  # as it was given
    root: Path  # of the repository
    files: tuple[str, ...]  # sorted, relative to root
    commit: str  # its hash

    @property
    def paths(self) -> frozenset[Path]:
        """Return the files as absolute paths."""
        return frozenset(self.root / name for name in self.files)


def difference(revision: str, folder: Path, option: str = "--only-changed") -> Difference:
    """Return what differs from a commit in the repository that contains a folder.

    Files that git ignores are left out; a renamed file counts by its old and its new name.
    Raises UsageError for what is not a commit, a folder outside a repository, and without git.
    """
    option_text = f"{option} {revision!r}"
    if revision.startswith("-"):
        raise UsageError(f"{option_text}: give a commit, a branch or a tag, not an option")
    root = Path(_git(option_text, folder, "rev-parse", "--show-toplevel").rstrip("\n"))
    verify = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = _git(
        option_text, root, *verify, failure=f"{root} has no such commit, branch or tag"
    ).strip()
    only_names = ("--name-only", "--no-renames", "--no-ext-diff", "-z")
    changed = _git(option_text, root, "diff", *only_names, commit, "--")
    added = _git(option_text, root, "ls-files", "--others", "--exclude-standard", "-z")
    files = {name for name in f"{changed}\0{added}".split("\0") if name}
    names = tuple(sorted(files))
    return Difference(revision=revision, root=root.resolve(), files=names, commit=commit)


def extract(changes: Difference, under: str, folder: Path) -> None:
    """Write the files that the commit has in a folder of the repository. Raises UsageError.

    under: the folder, relative to the repository's root; missing there: nothing is written.
    """
    text = f"{changes.revision!r}"
    if not _git(text, changes.root, "ls-tree", "--name-only", changes.commit, "--", under).strip():
        return
    archive = folder / "archive.tar"
    _git(text, changes.root, "archive", f"--output={archive}", changes.commit, "--", under)
    with tarfile.open(archive) as files:
        for member in files:
            content = files.extractfile(member) if member.isfile() else None
            if content is not None:  # no links, and no paths out of the folder: git has none
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    archive.unlink()


def _git(option_text: str, folder: Path, *arguments: str, failure: str | None = None) -> str:
    """Return the output of git. failure: what it means if it ends with an error; None: its text."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError(f"{option_text} needs git, which is not on PATH") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{option_text}: git cannot be run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"git ended with {done.returncode}"]
        raise UsageError(f"{option_text}: {failure or lines[0].removeprefix('fatal: ')}")
    return done.stdout
