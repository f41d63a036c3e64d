"""Teacher and student on few labels and much imagery (METHOD section 16)."""
