"""Codes from -127 to 127."""

import torch

from moe.formats.codec import Codec


class S8(Codec):
    dtype = torch.int8

    def encode(self, x):
        return x.clamp(-127, 127).round().to(torch.int8)
