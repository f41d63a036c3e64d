"""Pixel-level crop maps from image-level labels and Sentinel-2 time series (after Exact, CVPR 2025)."""
