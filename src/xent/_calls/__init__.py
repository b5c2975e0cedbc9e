"""From a Python call to a kernel: checks, targets, threads, the choice of an instruction set."""
