# The same kernels, compiled for one more instruction set (see setup.py).
include "_kernels.pyx"
