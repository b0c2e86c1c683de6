"""The tests, in the same rooms as the packages: see `testpaths` in pyproject.toml."""
