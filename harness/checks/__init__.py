"""The judgement of one case, a file for each check."""
