"""Real git repositories for the tests of what has changed."""

import subprocess


def git(root, *arguments):
    """Return the output of git in `root`, with an author of its own."""
    identity = ["-c", "user.name=x", "-c", "user.email=x@host", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(root, texts):
    """Write files. texts: name -> text."""
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def repository(root, texts):
    """Return a folder, as git knows it, with these files in its first commit."""
    write(root, texts)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root.resolve()
