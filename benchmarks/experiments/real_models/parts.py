"""The parts, by name, in the order in which they are measured."""

from benchmarks.experiments.real_models import exactness, fast, lape, lens, mwork, prices, sets, ternary

PARTS = {
    "prices": prices.PART,
    "exactness": exactness.PART,
    "fast": fast.PART,
    "sets": sets.PART,
    "lens": lens.PART,
    "lape": lape.PART,
    "ternary": ternary.PART,
    "mwork": mwork.PART,
}
