"""The official formulation of networks of this zoo, with the same weights: what their latency is compared with."""
