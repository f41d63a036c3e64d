"""Pixel-level crop maps from image-level labels and Sentinel-2 time series (after Exact, CVPR 2025)."""

import os

from cluemap.runtime import threads

__version__ = "0.1.0"  # the only place; pyproject.toml reads it here
threads.settle(os.environ)  # here, since OpenMP reads it when torch is loaded
