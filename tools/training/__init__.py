"""The parts of `attnzoo train`: recipe, data and model setup, training loop, hooks and checkpoints."""
