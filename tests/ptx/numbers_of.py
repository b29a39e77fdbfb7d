"""Numbers as bits, and their exact rounding, in Python's integers and fractions."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

# {type: (bits of the exponent, bits of the fraction)}
FORMATS = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23), "f64": (11, 52)}


@dataclass(frozen=True)
class Format:
    """A format of floating-point numbers."""

    exponent_bits: int
    fraction_bits: int

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    def decode(self, bits: int) -> float:
        """Returns the number of these bits."""
        fraction = bits & ((1 << self.fraction_bits) - 1)
        exponent = bits >> self.fraction_bits & ((1 << self.exponent_bits) - 1)
        sign = -1.0 if bits >> (self.fraction_bits + self.exponent_bits) else 1.0
        if exponent == (1 << self.exponent_bits) - 1:
            return math.nan if fraction else sign * math.inf
        if exponent:
            fraction += 1 << self.fraction_bits
        return sign * math.ldexp(fraction, max(exponent, 1) - self.bias - self.fraction_bits)

    def encode(self, x: float | Fraction) -> int:
        """Returns the bits of the nearest number, of two equally near ones the even one. NaN has no definite bits."""
        top = ((1 << self.exponent_bits) - 1) << self.fraction_bits  # infinity
        if isinstance(x, float):
            sign = int(math.copysign(1, x) < 0) << (self.fraction_bits + self.exponent_bits)
            if x != x:
                return top | 1
            if math.isinf(x):
                return sign | top
        else:
            sign = int(x < 0) << (self.fraction_bits + self.exponent_bits)
        size = abs(Fraction(x))
        if size == 0:
            return sign
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        exponent -= size < Fraction(2) ** exponent
        exponent = max(exponent, 1 - self.bias)
        whole = round(size / Fraction(2) ** (exponent - self.fraction_bits))  # ties to even
        return sign | min(whole + ((exponent + self.bias - 1) << self.fraction_bits), top)


FLOATS = {name: Format(*bits) for name, bits in FORMATS.items()}


def signed(bits: int, size: int) -> int:
    """Returns the signed integer of these bits."""
    return bits - (1 << 8 * size) if bits >> (8 * size - 1) & 1 else bits


def bits_of_float(x: float) -> int:
    """Returns the bits of a float32."""
    return struct.unpack("I", struct.pack("f", x))[0]
