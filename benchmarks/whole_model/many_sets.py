"""Many sets of neurons off in one forward, against the plain forward, and against one set after the other.

    python -m benchmarks.whole_model.many_sets [--out FILE.json]

1. A batch of 16 rows under 16 different sets (2% of the neurons of every site and layer each) beside the same batch without
   any, random model, taken in turn.
2. The matrix of the demo: perplexities of eight languages with eight sets off, with as many random neurons off, and with
   none, by `ablation_matrix` and by a loop over sets and documents with plain module hooks that multiply by a mask; documents
   being the demo's (texts joined to 128 tokens) or the texts as they are.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import pandas
import torch

import pymultiling as pml
from benchmarks.measuring.alternating import alternate, ratio
from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import SHAPES
from benchmarks.whole_model.end_to_end import VOCABULARY, random_llama
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection as demo
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.models.decoder import Decoder
from pymultiling.results.tables import add_random_sets

ROWS, LENGTH, SHARE = 16, 256, 0.02


def random_set(decoder: Decoder, seed: int, share: float = SHARE) -> pml.NeuronSet:
    generator, layers = torch.Generator().manual_seed(seed), len(decoder.layers)
    return pml.NeuronSet(
        {site: torch.rand(layers, width, generator=generator) < share for site, width in decoder.widths().items()}
    )


def one_forward(rounds: int) -> dict:
    (shape,) = (one for one in SHAPES if one.length == LENGTH)
    model = random_llama(shape)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    sets = [random_set(Decoder(model), seed) for seed in range(ROWS)]

    @torch.no_grad()
    def plain():
        return model(input_ids=tokens, use_cache=False)

    def masked():
        with pml.deactivate(model, sets):
            return plain()

    seconds = alternate({"plain": plain, "16 sets": masked}, rounds)
    return {
        "rows x tokens": f"{ROWS} x {LENGTH}",
        "plain s": min(seconds["plain"]),
        "16 sets s": min(seconds["16 sets"]),
        "times": ratio(seconds, "16 sets", "plain"),
    }


def demo_matrix(rounds: int, pack: int | None) -> dict:
    model, tokenizer = demo_model.load()
    corpora = {
        name: demo.first_texts_filling(texts, tokenizer, demo.DETECTION_DOCUMENTS)
        for name, texts in demo_model.corpora().items()
    }
    rule = pml.TopK(demo.TOP_FFN, demo.TOP_ATTENTION, demo.SHARE)
    detection = pml.detect(model, tokenizer, corpora, select=rule, pack=demo.DOCUMENT_TOKENS, progress=False)
    sets = add_random_sets(detection.specific(), demo.SEED)
    texts = {
        name: demo.first_texts_filling(some, tokenizer, demo.HELDOUT_DOCUMENTS)
        for name, some in demo_model.heldout().items()
    }
    found = {}

    def ours():
        found["ours"] = pml.ablation_matrix(model, tokenizer, sets, texts, pack=pack)

    def plain():
        found["plain"] = set_after_set(model, tokenizer, sets, texts, pack)

    seconds = alternate({"ablation_matrix": ours, "module hooks": plain}, rounds)
    difference = (found["ours"] / found["plain"] - 1).abs().max().max()
    assert difference < 1e-4, difference
    return {
        "sets x languages": f"{len(sets) + 1} x {len(texts)}",
        "ablation_matrix s": min(seconds["ablation_matrix"]),
        "module hooks s": min(seconds["module hooks"]),
        "times faster": 1 / ratio(seconds, "ablation_matrix", "module hooks"),
        "largest difference": difference,
    }


@torch.no_grad()
def set_after_set(
    model, tokenizer, sets: dict[str, pml.NeuronSet], texts: dict[str, list[str]], pack: int | None
) -> pandas.DataFrame:
    """What one writes without a library: hooks that multiply, a document a forward."""
    rows = {}
    for name, neurons in {"none": None, **sets}.items():
        handles = [] if neurons is None else hooks_of(model, neurons)
        rows[name] = {}
        for language, some in texts.items():
            total, count = 0.0, 0
            for document in tokenise(some, tokenizer, 512, CorpusReport(), pack):
                tokens = torch.tensor([document])
                total += model(input_ids=tokens, labels=tokens).loss.item() * (len(document) - 1)
                count += len(document) - 1
            rows[name][language] = math.exp(total / count)
        for handle in handles:
            handle.remove()
    return pandas.DataFrame.from_dict(rows, orient="index")


def hooks_of(model, neurons: pml.NeuronSet) -> list:
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
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results = {"environment": describe()}
    for name, measure in (
        ("one forward", one_forward),
        ("demo's matrix", partial(demo_matrix, pack=demo.DOCUMENT_TOKENS)),
        ("demo's matrix, texts as they are", partial(demo_matrix, pack=None)),
    ):
        results[name] = measure(arguments.rounds)
        print(name, *(f"{key} {value}" for key, value in results[name].items()), sep=" | ", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
