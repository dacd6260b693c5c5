"""What one does with the models: train, export, list; all behind the command `attnzoo`."""
