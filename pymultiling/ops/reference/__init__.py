"""Every operator as its equation in plain PyTorch: the reference of the tests, and the backend that can always run.

The functions take any floating dtype on any device. Sums are float32, or float64 for float64 input.
`pymultiling.ops.registry` names the module and the function of every operator.
"""
