"""The operators of attnzoo: what a query attends to, computed fast. Functions on tensors, no modules."""

from .backends import BACKENDS, Choice, explain
from .neighborhood import neighborhood_attention, neighborhood_av, neighborhood_bias, neighborhood_qk
from .routed import routed_attention
from .window import window_attention

__all__ = [
    "BACKENDS",
    "Choice",
    "explain",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_bias",
    "neighborhood_qk",
    "routed_attention",
    "window_attention",
]
