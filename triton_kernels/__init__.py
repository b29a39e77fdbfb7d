"""Triton kernels of the operators, imported as pymultiling.triton_kernels."""
