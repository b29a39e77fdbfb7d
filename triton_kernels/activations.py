"""The FFNs' activations, in float32 and from Triton's own operations: the same on every chip and in the interpreter."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LARGEST = tl.constexpr(200.0)  # e^200 and e^-200 are infinity and 0 in float32, and 1 + e^x all the same
ROOT_HALF = tl.constexpr(0.7071067811865476)
TANH_SLOPE = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi): 1 + tanh(z) = 2 / (1 + e^(-2z))
TANH_CUBE = tl.constexpr(0.044715)


@triton.jit
def activate(x, NAME: tl.constexpr, EXACT: tl.constexpr):
    """EXACT: to float32's last places, else to 1e-6."""
    if NAME == "silu":
        return times_sigmoid(x, x, EXACT)
    if NAME == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * ROOT_HALF))
    if NAME == "gelu_tanh":
        return times_sigmoid(x, x * TANH_SLOPE * (1.0 + x * x * TANH_CUBE), EXACT)
    tl.static_assert(NAME == "relu")
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def times_sigmoid(x, z, EXACT: tl.constexpr):
    """x / (1 + e^-z). Two roots are 3 instructions (sm_90), a division, whose divisor may be infinite, 8."""
    root = tl.rsqrt(one_plus_exp(-z, EXACT))
    return x * root * root


@triton.jit
def one_plus_exp(z, EXACT: tl.constexpr):
    if not EXACT:
        return 1.0 + tl.exp2(z * LOG2_E)
    z = tl.minimum(tl.maximum(z, -LARGEST), LARGEST)
    power = z * LOG2_E
    lost = tl.fma(z, LOG2_E, -power)  # by rounding: as a difference of exponents a relative error of 1e-6 where z = -12
    return tl.fma(tl.exp2(power), tl.fma(lost, LN_2, 1.0), 1.0)
