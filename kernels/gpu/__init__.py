"""The blocks of kernels/ in Triton, for a GPU."""
