"""Attention operators of attnzoo: functions on tensors, without modules."""

# imported as `kernels` from the root of a clone, the package stays empty: it may shadow another package of that name
if __name__ == "attnzoo.kernels":
    from .backends import BACKENDS, Choice, explain
    from .halo import halo_attention
    from .library import define_dynamic
    from .neighborhood import (
        neighborhood_attention,
        neighborhood_av,
        neighborhood_bias,
        neighborhood_qk,
        packed_neighborhood_attention,
    )
    from .routed import routed_attention
    from .selective_scan import selective_scan
    from .tracing import is_dynamic, is_exporting
    from .window import packed_window_attention, window_attention

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
        "packed_neighborhood_attention",
        "packed_window_attention",
        "routed_attention",
        "selective_scan",
        "window_attention",
    ]
