"""How a process runs: ranks, precision and compilation, memory, stop signals, what the machine does meanwhile."""
