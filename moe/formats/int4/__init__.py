"""Four-bit integers, two in a byte: symmetric, -8 to 7, or 0 to 15 with a zero point."""
