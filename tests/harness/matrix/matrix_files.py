"""A good matrix file and one with many errors."""

GOOD = """\
version: 1
suites:
  smoke:
    description: small
    blocks:
      - shapes: [[32, 256, 128]]
        num_experts: [8]
        top_k: [2]
        experts: [torch_loop]
"""


BAD = """\
version: 2
defaults:
  dtype: [bf17]
suites:
  smoke:
    description: x
    timout_s: 3
    blocks:
      - shapes: [[1, 2], [3, 4, '5'], [0, 1, 2]]
        num_experts: []
        top_k: 3
        experts: [tritn, "a.b:C"]
        quant: all
        layouts: [{tp: 1, sp: true}, {dpp: 2}]
        renormalize: [no]
        seed: [-1]
      - experts: all
        experts: all
        tokens:
  Bad-name: {description: 3, blocks: []}
"""
