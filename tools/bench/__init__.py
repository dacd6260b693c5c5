"""`attnzoo bench`: measures models and kernels on this machine, after checking their results."""
