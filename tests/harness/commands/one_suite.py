"""A matrix file with one suite of one case, for commands that take suites."""

MATRIX = """\
version: 1
suites:
  one:
    description: x
    blocks:
      - shapes: [[8, 128, 128]]
        num_experts: [4]
        top_k: [2]
        experts: [{experts}]
"""
