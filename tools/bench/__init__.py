"""`attnzoo bench`: how fast the operators and the models are, after a proof that what is timed is right."""
