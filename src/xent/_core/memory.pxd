# Memory of large results: see memory.pyx.

cimport numpy as cnp

cdef object empty(cnp.ndarray x, int axes)
cpdef object empty_like(cnp.ndarray array)
