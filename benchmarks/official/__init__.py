"""The formulations of the official code, rewritten, as the baseline for the speed of the zoo's models."""
