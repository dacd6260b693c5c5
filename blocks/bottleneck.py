"""The residual bottleneck of ResNets, around a 3x3 convolution or what takes its place. Maps are (B, C, H, W)."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Callable

from timm.layers import DropPath
from torch import Tensor, nn

from .convolution import ConvNorm


class Bottleneck(nn.Module):
    """act(shortcut(x) + narrow, mix, widen): (B, dim, H, W) -> (B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉).

    The last norm of the branch starts as zero, so the block starts as its shortcut.

    Args:
        dim: channels of the map.
        out_dim: channels of the result.
        mixer: sees pixels together and takes the step of `stride`; a norm is its last layer.
        hidden_dim: channels that it gets.
        mixed_dim: channels that it gives.
        stride: its step.
        project: whether the shortcut is a 1x1 convolution with a norm; where not, the shapes must be the same.
        act_layer: makes the activation.
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
