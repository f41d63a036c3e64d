"""Vector files of the user's: labels and parcels, their geometries and classes."""
