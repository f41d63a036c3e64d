"""Transformer blocks computed tile by tile, so that a tile stays in the CPU's cache."""
