"""What the kernels are made of: C and Cython only."""
