"""attnzoo: attention-based vision backbones for timm. `import attnzoo` registers all models.

Example:
    >>> import attnzoo, timm
    >>> model = timm.create_model("nat_tiny", pretrained=True)
"""

# imported as plain `zoo` from the root of a clone, the package stays empty
if __name__ == "attnzoo":
    from importlib import import_module as _import_module
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as _version
    from typing import Any as _Any

    from attnzoo.blocks import fold_reparametrization, make_quantizable, reparametrize

    from . import (
        agent,
        agent_deit,
        biformer,
        dhvt,
        eca_resnet,
        emca,
        fcanet,
        fftnet,
        flowformer,
        gfnet,
        halonet,
        litv2,
        moh_vit,
        nat,
        nat_isotropic,
        ninformer,
        overlock,
        parcnetv2,
        perceiver,
        plainmamba,
        ravlt,
        residual_attention,
        sparsifiner,
        spectformer,
        spectformer_h,
        swin,
        tap_rvt,
        van,
        yolov12,
        zoo_davit,
        zoo_mambaout,
        zoo_shvit,
        zoo_swiftformer,
        zoo_twins,
    )
    from .acceleration import accelerate
    from .base import Published, published
    from .explanation import explain

    try:
        __version__ = _version("attnzoo")
    except PackageNotFoundError:  # a source tree that was never installed
        __version__ = "0+unknown"

    __all__ = [
        "Published",
        "__version__",
        "accelerate",
        "explain",
        "fold_reparametrization",
        "make_quantizable",
        "published",
        "reparametrize",
    ]

    def __getattr__(name: str) -> _Any:
        # imported when it is asked for
        if name == "natten":
            return _import_module("attnzoo.natten")
        raise AttributeError(f"module 'attnzoo' has no attribute {name!r}")
