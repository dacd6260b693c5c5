"""Comparisons with other implementations, run from the root of a clone: `python -m benchmarks`. Not in the package."""
