"""Semantic segmentation: decoders of segmentation-models-pytorch on any timm backbone."""
