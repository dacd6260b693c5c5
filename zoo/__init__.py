"""attnzoo: attention-based vision backbones, created through timm. `import attnzoo` registers them all.

Example:
    >>> import attnzoo, timm
    >>> model = timm.create_model("nat_tiny", pretrained=True)
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from . import (
    additive,
    agent,
    agent_deit,
    bilevel,
    dual_attention,
    gated_conv,
    halo,
    head_tokens,
    hilo,
    large_kernel,
    mixture_of_heads,
    neighborhood,
    neighborhood_isotropic,
    overlock,
    rank_augmented,
    separable_attention,
    shifted_window,
    single_head,
)
from .registration import Published, published

try:
    __version__ = _version("attnzoo")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Published",
    "__version__",
    "additive",
    "agent",
    "agent_deit",
    "bilevel",
    "dual_attention",
    "gated_conv",
    "halo",
    "head_tokens",
    "hilo",
    "large_kernel",
    "mixture_of_heads",
    "neighborhood",
    "neighborhood_isotropic",
    "overlock",
    "published",
    "rank_augmented",
    "separable_attention",
    "shifted_window",
    "single_head",
]
