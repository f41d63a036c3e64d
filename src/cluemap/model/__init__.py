"""Networks and the pure maths of the method (METHOD sections 2 to 8)."""
