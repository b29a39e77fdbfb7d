"""Measures the cost of deactivating many sets of neurons in one forward.

    python -m benchmarks.whole_model.many_sets [--out FILE.json]

1. With a random model, a batch of 16 rows with a different set for each row is compared with the same batch without
   sets. Each set has 2% of the neurons of every site and layer. The two runs alternate.
2. The matrix of the demo has the perplexities of eight languages with eight sets off, with as many random neurons off,
   and with no neurons off. `ablation_matrix` is compared with a loop over sets and documents that uses plain module
   hooks, which multiply by a mask. The documents are those of the demo (texts joined to 128 tokens), or the texts as
   they are.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import pandas
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import SHAPES
from benchmarks.whole_model.end_to_end import VOCABULARY, random_llama
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.methods.random_sets import add_random_sets
from pymultiling.models.decoder import Decoder
from pymultiling.runtime.alternating import alternate, ratio

ROWS, LENGTH, FRACTION = 16, 256, 0.02


def random_set(decoder: Decoder, seed: int, fraction: float = FRACTION) -> pml.NeuronSet:
    """Returns a random set with a fraction of all neurons."""
    generator, layers = torch.Generator().manual_seed(seed), len(decoder.layers)
    return pml.NeuronSet(
        {site: torch.rand(layers, width, generator=generator) < fraction for site, width in decoder.widths().items()}
    )


def measure_one_forward(rounds: int) -> dict[str, object]:
    """Compares a forward with a set for each row with the plain forward."""
    (shape,) = (candidate for candidate in SHAPES if candidate.length == LENGTH)
    model = random_llama(shape)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    sets = [random_set(Decoder(model), seed) for seed in range(ROWS)]

    @torch.no_grad()
    def plain() -> object:
        return model(input_ids=tokens, use_cache=False)

    def masked() -> object:
        with pml.deactivate(model, sets):
            return plain()

    seconds = alternate({"plain": plain, "16 sets": masked}, rounds)
    return {
        "rows x tokens": f"{ROWS} x {LENGTH}",
        "plain s": min(seconds["plain"]),
        "16 sets s": min(seconds["16 sets"]),
        "times": ratio(seconds, "16 sets", "plain"),
    }


def measure_demo_matrix(rounds: int, pack: int | None) -> dict[str, object]:
    """Compares `ablation_matrix` with a loop over sets and documents, in time and results."""
    model, tokenizer = demo_model.load()
    corpora = {
        name: demo_detection.first_texts_filling(texts, tokenizer, demo_detection.DETECTION_DOCUMENTS)
        for name, texts in demo_model.corpora().items()
    }
    rule = pml.TopK(demo_detection.TOP_FFN, demo_detection.TOP_ATTENTION, demo_detection.SHARE)
    detection = pml.detect(model, tokenizer, corpora, select=rule, pack=demo_detection.DOCUMENT_TOKENS, progress=False)
    sets = add_random_sets(detection.specific(), 1, demo_detection.SEED)
    texts = {
        name: demo_detection.first_texts_filling(heldout, tokenizer, demo_detection.HELDOUT_DOCUMENTS)
        for name, heldout in demo_model.heldout().items()
    }
    matrices: dict[str, pandas.DataFrame] = {}

    def run_ours() -> None:
        matrices["ours"] = pml.ablation_matrix(model, tokenizer, sets, texts, pack=pack)

    def run_plain() -> None:
        matrices["plain"] = evaluate_with_hooks(model, tokenizer, sets, texts, pack)

    seconds = alternate({"ablation_matrix": run_ours, "module hooks": run_plain}, rounds)
    difference = (matrices["ours"] / matrices["plain"] - 1).abs().max().max()
    assert difference < 1e-4, difference
    return {
        "sets x languages": f"{len(sets) + 1} x {len(texts)}",
        "ablation_matrix s": min(seconds["ablation_matrix"]),
        "module hooks s": min(seconds["module hooks"]),
        "times faster": 1 / ratio(seconds, "ablation_matrix", "module hooks"),
        "largest difference": difference,
    }


@torch.no_grad()
def evaluate_with_hooks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, pml.NeuronSet],
    texts: dict[str, list[str]],
    pack: int | None,
) -> pandas.DataFrame:
    """Computes the perplexities without this library: hooks multiply by a mask, and a forward has one document."""
    rows: dict[str, dict[str, float]] = {}
    for name, neurons in {"none": None, **sets}.items():
        handles = [] if neurons is None else register_hooks(model, neurons)
        rows[name] = {}
        for language, heldout in texts.items():
            total, count = 0.0, 0
            for document in tokenise(heldout, tokenizer, 512, CorpusReport(), pack):
                tokens = torch.tensor([document])
                total += model(input_ids=tokens, labels=tokens).loss.item() * (len(document) - 1)
                count += len(document) - 1
            rows[name][language] = math.exp(total / count)
        for handle in handles:
            handle.remove()
    return pandas.DataFrame.from_dict(rows, orient="index")


def register_hooks(model: nn.Module, neurons: pml.NeuronSet) -> list[RemovableHandle]:
    """Registers hooks that set the neurons to zero."""
    handles = []
    for index, layer in enumerate(model.model.layers):
        keep = {site: (~mask[index]).float() for site, mask in neurons.sites.items()}
        attention, mlp = layer.self_attn, layer.mlp
        for site, module in (("ffn", mlp.down_proj), ("o", attention.o_proj)):
            handles.append(module.register_forward_pre_hook(lambda _, args, keep=keep[site]: (args[0] * keep,)))
        for site, module in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
            handles.append(module.register_forward_hook(lambda _, args, output, keep=keep[site]: output * keep))
    return handles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="results file to write")
    parser.add_argument("--rounds", type=int, default=3, help="times that each run is repeated (%(default)s)")
    arguments = parser.parse_args()
    results = {"environment": describe()}
    for name, measure in (
        ("one forward", measure_one_forward),
        ("demo's matrix", partial(measure_demo_matrix, pack=demo_detection.DOCUMENT_TOKENS)),
        ("demo's matrix, texts as they are", partial(measure_demo_matrix, pack=None)),
    ):
        results[name] = measure(arguments.rounds)
        print(name, *(f"{key} {value}" for key, value in results[name].items()), sep=" | ", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
