"""Prints the largest relative error of importance against float64 brute force, for every tiny model of the tests.

    python -m benchmarks.whole_model.exactness

Brute force zeroes a neuron's parameters and runs the sublayer again. Errors are relative to the neuron's importance, or
to 1e-6 of the layer's largest importance if that is larger. The batch has two documents of different length, padded on
the right and on the left; the table shows the worst error of both.
"""

import argparse

import pandas
import torch

import pymultiling as pml
from tests.probes.test_importance import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import ENCODERS, FURTHER_MODELS, MODELS, PAIRS, tiny_batch, tiny_model


def errors(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Returns {site: largest relative error}."""
    measure = importance_in_float64 if dtype == torch.float64 else pml.importance
    worst = dict.fromkeys(pml.SITES, 0.0)
    for padding in ("right", "left"):
        measured = measure(tiny_model(name, dtype), **tiny_batch(padding=padding))
        exact = brute_force_importance(name, padding)
        worst = {site: max(worst[site], largest_error(measured[site], exact[site])) for site in worst}
    return worst


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = {}
    for name in (*MODELS, *FURTHER_MODELS, *ENCODERS, *PAIRS):
        in_float64, in_float32 = errors(name, torch.float64), errors(name, torch.float32)
        rows[name] = {"float64, any site": max(in_float64.values())}
        rows[name] |= {f"float32, {site}": error for site, error in in_float32.items()}
    print(pandas.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:.0e}".format))


if __name__ == "__main__":
    main()
