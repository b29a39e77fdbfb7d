"""Activations of FFNs in float32.

They consist of operations that Triton itself defines, so they are the same on every chip and in the interpreter.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LARGEST = tl.constexpr(200.0)  # e^200 and e^-200 are infinity and 0 in float32, so a larger x gives the same 1 + e^x
ROOT_HALF = tl.constexpr(0.7071067811865476)
TANH_SLOPE = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi): 1 + tanh(z) = 2 / (1 + e^(-2z))
TANH_CUBE = tl.constexpr(0.044715)


@triton.jit
def activate(x, NAME: tl.constexpr, EXACT: tl.constexpr):
    """Returns the activation of x, with an error of a few last places of float32 if EXACT, else of 1e-6."""
    # Triton compiles what follows a return inside an `if`, so the cases must be branches of one statement.
    if NAME == "silu":
        y = times_sigmoid(x, x, EXACT)
    elif NAME == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * ROOT_HALF))
    elif NAME == "gelu_tanh":
        y = times_sigmoid(x, x * TANH_SLOPE * (1.0 + x * x * TANH_CUBE), EXACT)
    else:
        tl.static_assert(NAME == "relu")
        y = tl.where(x < 0.0, 0.0, x)
    return y


@triton.jit
def times_sigmoid(x, z, EXACT: tl.constexpr):
    """Returns x / (1 + e^-z), as x times the squared reciprocal root: 3 instructions (sm_90).

    A division by a number that may be infinite takes 8.
    """
    root = tl.rsqrt(one_plus_exp(-z, EXACT))
    return x * root * root


@triton.jit
def one_plus_exp(z, EXACT: tl.constexpr):
    """Returns 1 + e^z."""
    if not EXACT:
        return 1.0 + tl.exp2(z * LOG2_E)
    z = tl.minimum(tl.maximum(z, -LARGEST), LARGEST)
    power = z * LOG2_E
    lost = tl.fma(z, LOG2_E, -power)  # the rounding error of power, which would be a relative error of 1e-6 at z = -12
    return tl.fma(tl.exp2(power), tl.fma(lost, LN_2, 1.0), 1.0)
