"""All functions of the package that run a pass, but `detect` and `activations`, and a program that runs them.

The model is tiny.

python -m tests.support.every_pass FOLDER NAME     is killed after a few batches; its checkpoint is FOLDER/state
torchrun ... -m tests.support.every_pass FOLDER    every process writes all results to FOLDER/RANK.pickle
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
# The last two languages have a chunk each: one for the first process and one for the second.
SENTENCES = {language: [*lines[:5], None, *lines[5:]] for language, lines in TEXTS.items()}
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
# {name of a pass: the class of its probe, and the method that measures a batch}
PROBES = {
    "lens": (TopTokenProbe, "launch"),
    "sentence_embeddings": (SentenceMeanProbe, "launch"),
    "ablation_matrix": (LikelihoodProbe, "measure"),
    "perplexity": (LikelihoodProbe, "measure"),
    "mean_activations": (ActivationSumProbe, "measure"),
}
BATCHES = 17  # the program is killed after this many batches: in the second language if there are two


def make_small_chunks() -> None:
    """Makes chunks of 20 texts."""
    chunks.LEAST = chunks.TEXTS = 1
    chunks.CHARACTERS = 99


def kill_after(probe: type, method: str, batches: int) -> None:
    """Makes a class of probes kill this process when its method measures the batch after `batches` batches."""
    measure, calls = getattr(probe, method), 0

    def measure_or_die(*arguments):
        nonlocal calls
        calls += 1
        if calls > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*arguments)

    setattr(probe, method, measure_or_die)


def main(folder: Path, name: str | None = None) -> None:
    make_small_chunks()
    if name is not None:
        kill_after(*PROBES[name], BATCHES)
        PASSES[name](checkpoint=folder / "state", checkpoint_documents=3, **OPTIONS)
        return
    results = {name: run(**OPTIONS) for name, run in PASSES.items()}
    (folder / f"{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
