"""What networks attend to: `explain`, and Grad-CAM for networks without attention."""

from .api import Explanation, attention_layers, explain
from .grad_cam import grad_cam

__all__ = ["Explanation", "attention_layers", "explain", "grad_cam"]
