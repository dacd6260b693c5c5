"""Training recipes: one config per file, data only."""
