"""Base classes of the model families, and the registration of their variants with timm."""

from .attention_resnet import STAGES, WIDTHS, AttentionConstructor, AttentionResNet
from .backbone import Backbone, init_convolution, init_linear
from .checkpoints import (
    Filter,
    Renames,
    block_of,
    depths_of,
    filter_by,
    filter_by_depths,
    in_stages,
    like,
    renamed,
    unwrapped,
)
from .huggingface import TRANSFORMER, of_transformers
from .isotropic import (
    Isotropic,
    IsotropicTokens,
    PlainAttention,
    PlainMlp,
    TokenBlock,
    TokenHead,
    Tokens,
    TokenStage,
    TokenStem,
)
from .pyramid import Pyramid, Stage, stages_of
from .recomputation import checkpointed, checkpointed_sequence
from .registry import Family, Published, Variant, checkpoint_filter, published
from .sources import Source, WeightsError, check_connection, sources_of

__all__ = [
    "STAGES",
    "TRANSFORMER",
    "WIDTHS",
    "AttentionConstructor",
    "AttentionResNet",
    "Backbone",
    "Family",
    "Filter",
    "Isotropic",
    "IsotropicTokens",
    "PlainAttention",
    "PlainMlp",
    "Published",
    "Pyramid",
    "Renames",
    "Source",
    "Stage",
    "TokenBlock",
    "TokenHead",
    "TokenStage",
    "TokenStem",
    "Tokens",
    "Variant",
    "WeightsError",
    "block_of",
    "check_connection",
    "checkpoint_filter",
    "checkpointed",
    "checkpointed_sequence",
    "depths_of",
    "filter_by",
    "filter_by_depths",
    "in_stages",
    "init_convolution",
    "init_linear",
    "like",
    "of_transformers",
    "published",
    "renamed",
    "sources_of",
    "stages_of",
    "unwrapped",
]
