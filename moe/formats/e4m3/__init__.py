"""fp8 e4m3, finite only: 3 bits of mantissa, the largest code 448."""
