"""Networks that classify a parcel from a set of its pixels over time (METHOD section 17)."""
