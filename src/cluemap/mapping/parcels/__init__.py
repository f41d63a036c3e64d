"""Parcels and maps: maps summed up by parcels, and parcels that a parcel network names."""
