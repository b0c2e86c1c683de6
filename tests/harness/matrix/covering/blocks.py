"""Blocks of a matrix file, made from text."""

from harness.matrix.load import load

DEFAULTS = """\
version: 1
defaults:
  num_experts: [8]
  top_k: [2]
suites:
"""


def config_of(folder, text):
    """The matrix file with these suites."""
    path = folder / "matrix.yaml"
    path.write_text(DEFAULTS + text)
    return load(path)


def suite(block, name="one"):
    """The text of a suite with one block, given as a mapping in flow style."""
    return f"  {name}:\n    description: a test\n    blocks:\n      - {block}\n"
