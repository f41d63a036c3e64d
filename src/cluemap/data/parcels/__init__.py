"""Parcels as sets of pixels: the second common form, beside windows (METHOD section 17)."""
