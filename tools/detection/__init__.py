"""Detection: torchvision's detectors on timm's backbones, their data, files, metrics and training."""
