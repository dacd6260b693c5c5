"""The residual bottleneck of ResNets, around a 3x3 convolution or a replacement for it. Maps are (B, C, H, W)."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

from timm.layers import DropPath
from torch import Tensor, nn

from .convolution import ConvNorm


class Bottleneck(nn.Module):
    """act(shortcut(x) + widen(mixer(narrow(x)))): (B, dim, H, W) -> (B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉).

    The last norm of the branch is initialized to zero, so the block starts as its shortcut.

    Args:
        dim: input channels.
        out_dim: output channels.
        mixer: the spatial layer, with the stride of the block; its last layer is a norm.
        hidden_dim: input channels of the mixer.
        mixed_dim: output channels of the mixer.
        stride: stride of the mixer and the shortcut.
        project: whether the shortcut is a 1x1 convolution with a norm; if not, the branch must keep the shape.
        act_layer: builds the activation.
        drop_path: probability that a sample skips the branch in training.

    Source: Deep Residual Learning for Image Recognition, arXiv 1512.03385, figure 5, with the stride in the middle.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        mixer: nn.Module,
        hidden_dim: int,
        mixed_dim: int,
        stride: int = 1,
        project: bool = False,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden_dim, channels_last=False)
        self.act1 = act_layer()
        self.mixer = mixer
        self.act2 = act_layer()
        self.conv3 = ConvNorm(mixed_dim, out_dim, channels_last=False)
        nn.init.zeros_(self.conv3.norm.weight)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.shortcut = ConvNorm(dim, out_dim, stride=stride, channels_last=False) if project else nn.Identity()
        self.act3 = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉)."""
        branch = self.conv3(self.act2(self.mixer(self.act1(self.conv1(x)))))
        return self.act3(self.shortcut(x) + self.drop_path(branch))
