"""Training recipes: one run per file, data only."""
