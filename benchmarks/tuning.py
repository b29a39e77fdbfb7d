"""What fine-tuning in one language does to that language and the others, on the embedded model, as a table.

    python benchmarks/tuning.py [--corpora FOLDER] [--language tr] [--documents 400] [--out FILE.json]

Figure 4 of arXiv 2402.18815 in small: only the language's own neurons are trained, or as many random ones, or all
parameters; and single-language training with the early layers, embeddings and head frozen (arXiv 2503.11280). The same
documents, in the same order, at every rate of learning. Printed are held-out perplexities, changes of their logarithm
for the language itself and for the others on average, trainable parameters, bytes of optimizer state and seconds.

FOLDER holds LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz of each language; by default the embedded texts are taken,
which the model has seen in training.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pandas
import torch
from environment import describe
from torch import nn

import pymultiling as pml
from pymultiling import demo, embedded
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import tokenise
from pymultiling.methods.freezing import freeze
from pymultiling.methods.tuning import train_only
from pymultiling.report import log_change

BATCH = 8  # documents
WARM_UP = 0.1  # of the steps; then the rate falls linearly to zero
EARLY = 2  # layers of the embedded model's six


def texts(folder: Path | None, languages: tuple[str, ...], heldout: bool) -> dict[str, list[str]]:
    if folder is None:
        return embedded.heldout() if heldout else embedded.corpora()
    end = ".heldout.txt.gz" if heldout else ".txt.gz"
    return {language: list(read_texts(folder / (language + end), CorpusReport())) for language in languages}


def packed(lines: list[str], tokenizer, documents: int) -> torch.Tensor:
    """(documents, demo.TOKENS)."""
    found = list(islice(tokenise(lines, tokenizer, demo.TOKENS, CorpusReport(), pack=demo.TOKENS), documents))
    if len(found) < documents:
        print(f"only {len(found)} documents of {demo.TOKENS} tokens are there, {documents} were asked for")
    return torch.tensor(found)


def train(model: nn.Module, documents: torch.Tensor, rate: float, seed: int) -> dict[str, float]:
    """One pass; what it took."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    start, processor = time.perf_counter(), time.process_time()
    for step, rows in enumerate(order):
        done = step / len(order)
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / (WARM_UP * len(order)), (1 - done) / (1 - WARM_UP), 1)
        optimizer.zero_grad()
        model(input_ids=documents[rows], labels=documents[rows]).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    state = (value for moments in optimizer.state.values() for value in moments.values())
    return {
        "parameters": sum(one.numel() for one in parameters),
        "optimizer bytes": sum(value.numel() * value.element_size() for value in state),
        "seconds": round(seconds, 1),
        "CPU seconds": round(processor, 1),  # of all threads
    }


@contextmanager
def only(model: nn.Module, neurons: pml.NeuronSet) -> Iterator[nn.Module]:
    with train_only(model, neurons):
        yield model


@contextmanager
def all_but(model: nn.Module, layers: int) -> Iterator[nn.Module]:
    """A copy to train, with the early layers, embeddings and head frozen; 0 layers: with nothing frozen."""
    model = copy.deepcopy(model)
    freeze(model, range(layers), embeddings=layers > 0, head=layers > 0)
    yield model


def experiment(model, language: str, neurons: pml.NeuronSet, documents, rates, measure: Callable, seed: int):
    """A row for every way to train and every rate, the model as it was first."""
    random = neurons.random_like(seed)
    ways = {
        f"the {len(neurons)} neurons of {language}": lambda: only(model, neurons),
        f"{len(random)} random neurons": lambda: only(model, random),
        "all parameters": lambda: all_but(model, 0),
        f"all but layers 0-{EARLY - 1}, embeddings, head": lambda: all_but(model, EARLY),
    }
    rows = [{"trained": "nothing"} | measure(model)]
    for name, way in ways.items():
        for rate in rates:
            with way() as trainee:
                cost = train(trainee, documents, rate, seed)
                rows.append({"trained": name, "rate": rate, **cost} | measure(trainee))
            print(f"trained {name} at {rate:g}: {cost['seconds']} s", flush=True)
    return pandas.DataFrame(rows)


def summary(table: pandas.DataFrame, language: str, languages: list[str]) -> pandas.DataFrame:
    """With the change of log-perplexity for the language and the others' mean."""
    change = log_change(table[languages].rename(index={0: "none"}))  # which gives no row to "none"
    others = [one for one in languages if one != language]
    return table.assign(itself=change[language], others=change[others].mean(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, metavar="FOLDER")
    parser.add_argument("--language", default="tr")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--heldout", type=int, default=40, help="documents of each language")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    model, tokenizer = embedded.load()
    languages = tuple(dict.fromkeys((*embedded.LANGUAGES, args.language)))
    corpora, apart = (texts(args.corpora, languages, heldout) for heldout in (False, True))
    few = {language: demo.enough(lines, tokenizer, demo.DOCUMENTS) for language, lines in corpora.items()}
    select = pml.TopK(demo.TOP_FFN, demo.TOP_ATTENTION, demo.SHARE)
    neurons = pml.detect(model, tokenizer, few, select=select, pack=demo.TOKENS, progress=False).specific()
    apart = {language: demo.enough(lines, tokenizer, args.heldout) for language, lines in apart.items()}

    def measure(one) -> dict[str, float]:
        return {name: pml.perplexity(one, tokenizer, lines, pack=demo.TOKENS) for name, lines in apart.items()}

    documents = packed(corpora[args.language], tokenizer, args.documents)
    table = experiment(model, args.language, neurons[args.language], documents, args.rates, measure, args.seed)
    table = summary(table, args.language, list(apart))
    print(f"\nperplexity after {len(documents)} documents of {args.language}; change of its logarithm\n")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep=""))
    if args.out:
        settings = {name: str(value) for name, value in vars(args).items()}
        rows = json.loads(table.to_json(orient="records"))
        args.out.write_text(json.dumps({"settings": settings, "machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
