"""`attnzoo bench`: how fast models and kernels are on this machine, after a check that what is timed is right."""
