"""A `buildkite-agent` on PATH that keeps what it is given, and brings artifacts from a folder."""

import json
import stat
import sys
from pathlib import Path

SCRIPT = """\
#!{python}
import json, pathlib, shutil, sys
here = pathlib.Path({folder!r})
arguments = sys.argv[1:]
text = "" if arguments[0] == "artifact" else sys.stdin.read()
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps([arguments, text]) + "\\n")
if (here / "fails").exists():
    sys.exit("the agent failed")
if arguments[:2] == ["artifact", "download"] and (here / "artifacts").exists():
    shutil.copytree(here / "artifacts", ".", dirs_exist_ok=True)
"""


class FakeAgent:
    """folder: where it keeps calls, `artifacts/` to bring, and a file `fails` to fail."""

    def __init__(self, folder, monkeypatch):
        self.folder = Path(folder)
        self.folder.mkdir()
        script = self.folder / "buildkite-agent"
        script.write_text(SCRIPT.format(python=sys.executable, folder=str(self.folder)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(self.folder), prepend=":")

    def calls(self):
        """Return (arguments, input) of each call."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(json.loads(line)) for line in lines]
