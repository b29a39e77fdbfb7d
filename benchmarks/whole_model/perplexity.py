"""Prints the memory that perplexity takes above the model, and its time compared with logits of whole batches.

    python -m benchmarks.whole_model.perplexity --model FOLDER [--dtype bfloat16] [--batch-tokens 4096] [--rounds 3]

Memory is the peak of the resident memory above that before the call, in a fresh process: of the layers alone, whose
output are the hidden states, and of perplexity. With --rounds 0 whole logits, which take 12 bytes for each token and
entry of the vocabulary, are not computed. Times are CPU seconds of one thread. Texts are words of the vocabulary.
"""

import argparse
import ctypes
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import pymultiling as pml
from benchmarks.measuring.memory import added_mib
from pymultiling.runtime.alternating import alternate, ratio

LENGTH = 512  # tokens of a document


def texts_of(tokenizer, count: int) -> list[str]:
    """Returns texts of more than LENGTH tokens."""
    words = [word[1:] for word in tokenizer.get_vocab() if word[:1] in "\u2581\u0120" and word[1:].isalpha()]
    generator = torch.Generator().manual_seed(0)
    return [" ".join(words[i] for i in torch.randint(len(words), (LENGTH,), generator=generator)) for _ in range(count)]


def whole_logits(model, batch: Tensor) -> float:
    """Returns the perplexity of a batch (documents, tokens) from the logits of all its positions."""
    with torch.inference_mode():
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        likelihoods = logits.log_softmax(-1).gather(2, batch[:, 1:, None])
    return math.exp(-float(likelihoods.double().mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--dtype", default="float32", help="dtype of the weights (default: %(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often times are measured (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    texts = texts_of(tokenizer, max(1, options.batch_tokens // LENGTH))
    batch = torch.tensor([tokenizer(text)["input_ids"][:LENGTH] for text in texts])

    def layers() -> None:
        with torch.inference_mode():
            model.get_decoder()(input_ids=batch, use_cache=False)

    def in_parts(chosen: list[str] = texts) -> float:
        return pml.perplexity(model, tokenizer, chosen, batch_tokens=options.batch_tokens, progress=False)

    def added(run: Callable[[], object]) -> float:
        ctypes.CDLL(None).malloc_trim(0)  # memory that has been freed but not returned would hide what is taken
        return added_mib(run)

    in_parts([texts[0][:200]])  # what a first call loads does not count
    of_layers, of_perplexity = added(layers), added(in_parts)
    print(
        f"{options.dtype}, batches of {options.batch_tokens} tokens: layers {of_layers:.0f} MiB, "
        f"perplexity {of_perplexity:.0f} MiB above the model"
    )
    if options.rounds:
        results: dict[str, float] = {}
        runs = {
            "in parts": lambda: results.update(parts=in_parts()),
            "whole logits": lambda: results.update(whole=whole_logits(model, batch)),
        }
        seconds = alternate(runs, options.rounds, time.process_time)
        print(f"time in parts / with whole logits: {ratio(seconds, 'in parts', 'whole logits'):.3f}")
        print(f"perplexity {results['parts']:.9g}, from whole logits {results['whole']:.9g}")


if __name__ == "__main__":
    main()
