"""The work behind the stages of parcels."""
