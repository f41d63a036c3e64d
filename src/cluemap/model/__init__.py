"""Networks, the pure maths of the method (METHOD sections 2 to 8), their CPU kernels and their files."""
