"""The operators of attnzoo: what a query attends to, computed fast. Functions on tensors, no modules."""

# by its bare name, from the root of a clone, the folder is empty: there it may stand in for another package
if __name__ == "attnzoo.kernels":
    from .backends import BACKENDS, Choice, explain
    from .halo import halo_attention
    from .library import define_dynamic
    from .neighborhood import neighborhood_attention, neighborhood_av, neighborhood_bias, neighborhood_qk
    from .routed import routed_attention
    from .tracing import is_dynamic, is_exporting
    from .window import window_attention

    __all__ = [
        "BACKENDS",
        "Choice",
        "define_dynamic",
        "explain",
        "halo_attention",
        "is_dynamic",
        "is_exporting",
        "neighborhood_attention",
        "neighborhood_av",
        "neighborhood_bias",
        "neighborhood_qk",
        "routed_attention",
        "window_attention",
    ]
