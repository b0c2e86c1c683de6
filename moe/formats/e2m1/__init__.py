"""fp4 e2m1: 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign, two codes in a byte."""
