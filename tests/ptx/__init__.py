"""Runs compiled GPU kernels without a GPU: their PTX, the assembly text that NVIDIA's driver gets, is interpreted.

`parse` reads the text, `encode` resolves names and finds where the lanes of a warp meet again, and `interpreter` is the
machine, in C++. `driver` stands in for Triton's GPU driver, so that `kernel[grid](...)` runs on tensors on the CPU.
"""
