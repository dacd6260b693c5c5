"""The tools behind the command `attnzoo`: train, export, list and others."""
