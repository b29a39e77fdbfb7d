"""Everything that reads texts besides `detect` and `activations`, on a tiny model; and a program that runs it and dies, or shares it.

python -m tests.support.every_pass FOLDER NAME     dies by SIGKILL after a few batches; its state is in FOLDER/state
torchrun ... -m tests.support.every_pass FOLDER    each process writes the results of all to FOLDER/RANK.pickle
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.likelihood import LikelihoodProbe
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama"), tiny_tokenizer()
TEXTS = {language: texts(language, (9, 4, 7, 12, 3, 8) * 7) for language in LANGUAGES}
# Of the last two languages, of a chunk each, one is the first process's and one the second's.
SENTENCES = {language: [*some[:5], None, *some[5:]] for language, some in TEXTS.items()}
SENTENCES |= {"es": ["w3 w4", None, "w5"], "it": ["w3 w4 w6", "", "w5"]}
SETS = {name: random_neurons(MODEL, seed=seed) for seed, name in enumerate(("a", "b"))}
OPTIONS = {"batch_tokens": 20, "workers": 0}

PASSES: dict[str, Callable] = {
    "lens": lambda **options: pml.lens(MODEL, TOKENIZER, TEXTS["fr"], languages=["en", "de"], top=2, **options),
    "sentence_embeddings": lambda **options: dict(pml.sentence_embeddings(MODEL, TOKENIZER, SENTENCES, **options)),
    "ablation_matrix": lambda **options: pml.ablation_matrix(MODEL, TOKENIZER, SETS, TEXTS, **options),
    "perplexity": lambda **options: pml.perplexity(MODEL, TOKENIZER, TEXTS["fr"], **options),
    "mean_activations": lambda **options: pml.mean_activations(MODEL, TOKENIZER, TEXTS["fr"], **options),
}
PROBES = {
    "lens": TopTokenProbe,
    "sentence_embeddings": SentenceMeanProbe,
    "ablation_matrix": LikelihoodProbe,
    "perplexity": LikelihoodProbe,
    "mean_activations": ActivationSumProbe,
}
BATCHES = 17  # after which it dies: in the second language, where there are two


def small_chunks() -> None:
    """Of 20 texts."""
    chunks.LEAST = chunks.TEXTS = 1
    chunks.CHARACTERS = 99


def die_after(probe: type, batches: int) -> None:
    measure, seen = probe.measure, 0

    def dying(*arguments):
        nonlocal seen
        seen += 1
        if seen > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*arguments)

    probe.measure = dying


def main(folder: Path, name: str | None = None) -> None:
    small_chunks()
    if name is not None:
        die_after(PROBES[name], BATCHES)
        PASSES[name](checkpoint=folder / "state", checkpoint_documents=3, **OPTIONS)
        return
    results = {name: run(**OPTIONS) for name, run in PASSES.items()}
    (folder / f"{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
