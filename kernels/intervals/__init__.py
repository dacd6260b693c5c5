"""Triton kernels of neighborhood and window attention: on each axis, a query attends to an interval of keys.

Both are the same computation. A map is split into segments (dilation groups, or windows). Inside a segment every query
attends, on each axis, to an interval of ranks whose ends never decrease with the query's rank. So a tile of queries
needs one rectangle of keys, a tile of keys is seen from one rectangle of queries, and a mask excludes the other pairs.
"""
