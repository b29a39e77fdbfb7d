"""Every operator as its equation in plain PyTorch: the oracle of the tests, and the backend that is always there.

Any floating dtype and any device. Sums are float32, or float64 for float64 input. `pymultiling.ops.registry` names the
file and the function of every operator.
"""
