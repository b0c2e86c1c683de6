"""The case, its axes and its id; the matrix file with positions; schema; expansion."""
