"""Recipes for object detection."""
