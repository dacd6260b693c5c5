"""Recipes for image classification."""
