"""The operators of attnzoo: what a query attends to, computed fast. Functions on tensors, no modules."""

from .backends import BACKENDS, Choice, explain
from .halo import halo_attention
from .library import define_free
from .neighborhood import neighborhood_attention, neighborhood_av, neighborhood_bias, neighborhood_qk
from .routed import routed_attention
from .tracing import is_free
from .window import window_attention

__all__ = [
    "BACKENDS",
    "Choice",
    "define_free",
    "explain",
    "halo_attention",
    "is_free",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_bias",
    "neighborhood_qk",
    "routed_attention",
    "window_attention",
]
