"""Explain a wrong output: how much is wrong, where, in which pattern, and by which mistake.

Where to start:
    diagnose          one failed call on one rank -> its diagnosis
    error_stats       how much is wrong and where
    patterns          what the wrong elements have in common; routing_patterns: their experts
    causes            the known mistake (harness.mutants) that gives the same output
    explanations      what the errors have in common, if no known mistake does: a table of kinds
"""
