"""Pixel-level crop maps from image-level labels and Sentinel-2 time series (after Exact, CVPR 2025)."""

import os

from cluemap.runtime import threads

threads.settle(os.environ)  # here, since OpenMP reads it when torch is loaded
