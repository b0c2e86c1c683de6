"""The grid of the codes, for the reference."""

import torch


class S8Truth:
    def step_of(self, x):
        return torch.full_like(x, 1.0)
