"""What git says has changed, from a real repository; and one clear line where it cannot."""

import pytest

from harness.errors import UsageError
from harness.plan.git_diff import difference
from tests.harness.plan.repositories import git, repository, write


@pytest.fixture
def tree(tmp_path):
    texts = {"kept.py": "", "edited.py": "", "old.py": "x = 1\n", "gone.py": "y = 2\n"}
    return repository(tmp_path, {**texts, "part/.gitignore": "ignored.py\n"})


def test_edited_added_renamed_and_deleted_files_differ(tree):
    write(tree, {"edited.py": "x = 2\n", "new name.py": "", "part/ignored.py": ""})
    (tree / "old.py").rename(tree / "moved.py")
    (tree / "gone.py").unlink()
    changes = difference("HEAD", tree / "part")
    names = ("edited.py", "gone.py", "moved.py", "new name.py", "old.py")
    assert (changes.root, changes.files) == (tree, names)
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "two")
    assert difference("HEAD~1", tree).files == names
    assert difference("HEAD", tree).files == ()


@pytest.mark.parametrize("revision", ["", "nobody", "0" * 40, "HEAD..HEAD", "kept.py", "HEAD:part"])
def test_what_is_no_commit_is_named(tree, revision):
    with pytest.raises(UsageError, match="has no such commit, branch or tag") as error:
        difference(revision, tree)
    assert repr(revision) in str(error.value)


def test_an_option_is_never_given_to_git(tree):
    with pytest.raises(UsageError, match="a branch or a tag, not an option"):
        difference("--output=mine", tree)
    assert not (tree / "mine").exists()


def test_a_folder_outside_a_repository(tmp_path):
    with pytest.raises(UsageError, match="--only-changed 'HEAD': not a git repository"):
        difference("HEAD", tmp_path)


def test_a_machine_without_git(tree, monkeypatch):
    monkeypatch.setenv("PATH", str(tree))
    with pytest.raises(UsageError, match="--only-changed 'HEAD' needs git, which is not on PATH"):
        difference("HEAD", tree)
