"""Covering suites: which values combine, few rows that have every combination, and their proof."""
