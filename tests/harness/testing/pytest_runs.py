"""Run pytest in a process of its own, with the plugin as an installation would have it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.harness.engine.engine_tools import marked, wait_for

ROOT = Path(__file__).parents[3]
LIMIT = 240  # seconds; a run takes 5 to 15 on two idle cores

MATRIX = """\
version: 1
defaults: {shapes: [[2, 256, 128]], num_experts: [8], top_k: [2], experts: [torch_loop]}
suites:
  small:
    description: x
    time_limit_s: 60
    blocks:
      - {layouts: [{}, {tp: 2}], seed: [0, 1]}
      - {experts: [flashinfer_cutlass]}
  nothing:
    description: x
    blocks:
      - {experts: [flashinfer_cutlass]}
"""
BASE = "m:2-n:256-k:128-e:8-topk:2-experts:torch_loop"
ONE, TWO = f"m.yaml::small::world1::{BASE}", f"m.yaml::small::world2::{BASE}-tp:2"
CASES = {ONE, f"{ONE}-seed:1", TWO, f"{TWO}-seed:1"}
REFUSED = "m.yaml::small::world1::m:2-n:256-k:128-e:8-topk:2-experts:flashinfer_cutlass"


@dataclass
class Run:
    """A pytest run that has ended. outcomes: (node id, outcome) of every line of `-rA`."""

    code: int
    text: str
    folder: Path
    left: list[int]  # processes that it left behind

    @property
    def outcomes(self):
        pattern = r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+)"
        return [(node, word) for word, node in re.findall(pattern, self.text, re.M)]

    def testcases(self):
        """The test cases of the JUnit file, by the last part of their node ids."""
        return {
            case.get("name"): case for case in ET.parse(self.folder / "junit.xml").iter("testcase")
        }


def run(folder: Path, *arguments, files=None, suite="small", **environment):
    """Run pytest in a folder with a matrix file. files: name -> text, written before."""
    for name, text in {"m.yaml": MATRIX, **(files or {})}.items():
        (folder / name).write_text(text)
    mark = uuid.uuid4().hex
    path = os.pathsep.join([str(_entry_point(folder)), str(ROOT), str(folder)])
    known = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    asked = ["--moe-suite", suite, "--moe-matrix", "m.yaml"] if suite else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--junitxml=junit.xml", *asked, *arguments],
        cwd=folder,
        env={**known, "PYTHONPATH": path, "MARK_OF_THE_RUN": mark, "COLUMNS": "300", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    wait_for(lambda: not marked(mark))
    return Run(code=done.returncode, text=done.stdout, folder=folder, left=marked(mark))


def _entry_point(folder: Path) -> Path:
    """Return a folder for the search path that has the plugin's entry point of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = folder / "site"
    info = site / "moe_harness_of_the_tests-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: moe-harness-of-the-tests\nVersion: 0\n"
    )
    points = project["entry-points"]["pytest11"]
    lines = [f"{name} = {module}" for name, module in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return site
