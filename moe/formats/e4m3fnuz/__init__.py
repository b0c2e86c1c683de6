"""fp8 e4m3fnuz, AMD's of gfx942: 3 bits of mantissa, the largest code 240, one zero."""
