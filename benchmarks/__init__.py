"""The project's own comparisons, run from the root of a clone: `python -m benchmarks`. Not part of the package."""
