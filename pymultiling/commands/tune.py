"""The command `tune`: from texts to a model of which some neurons, or layers, were trained on them."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from torch import nn

from pymultiling.cli.command_run import documents_of, hashes, load, record_of
from pymultiling.methods.ablation import ablation_matrix
from pymultiling.methods.fine_tuning import fine_tune
from pymultiling.methods.freezing import freeze
from pymultiling.methods.model_comparison import perplexity_change
from pymultiling.methods.tuning import train_only
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.results.folders import result_folder


def run(arguments: Namespace) -> None:
    """Trains; writes the model, what was added to it, the loss by step, and perplexities before and after."""
    record = record_of("tune", arguments)
    heldout = dict(arguments.heldout or ())
    with result_folder(arguments.out) as folder:
        files = {"texts": arguments.texts} | {f"heldout, {language}": path for language, path in heldout.items()}
        record.note(corpora=hashes(files), seed=arguments.seed)
        neurons = _neurons(arguments)
        model, tokenizer = load(arguments, record)
        if arguments.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers 6 will call it otherwise
                model.gradient_checkpointing_enable()
        perplexities = {}

        def measure(when: str) -> None:
            with record.stage(f"perplexity {when}"):
                matrix = ablation_matrix(model, tokenizer, {}, heldout, **documents_of(arguments))
                perplexities[when] = matrix.loc["none"]

        with _training(model, neurons, arguments, folder):
            if heldout:
                measure("before")
            with record.stage("train"):
                names = ("rate", "epochs", "batch", "documents", "max_length", "pack", "seed")
                options = {name: getattr(arguments, name) for name in names}
                found = fine_tune(model, tokenizer, arguments.texts, **options)
        if heldout:
            measure("after")
            table = perplexity_change(**perplexities)
            table.to_csv(folder / "perplexity.csv", index_label="language")
        with record.stage("write"):
            found.log.to_csv(folder / "log.csv", index=False)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
        taken = {name: getattr(found, name) for name in ("documents", "parameters", "optimizer_bytes")}
        record.note(texts=asdict(found.corpus), **taken)
        record.write(folder)
    print(f"read: {found.corpus}")
    what = "" if neurons is None else f"{len(neurons):,} neurons, "
    print(f"trained on {found.documents:,} documents, {len(found.log):,} steps: {what}{found.parameters:,} parameters, "
          f"{found.optimizer_bytes / 1e6:,.2f} MB of optimizer state")  # fmt: skip
    if heldout:
        print(
            "\nheld-out perplexity, and change of its logarithm",
            table.to_string(float_format="{:,.4f}".format),
            sep="\n",
        )
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _neurons(arguments: Namespace) -> NeuronSet | None:
    """The set to train; None: --freeze says it."""
    if arguments.freeze is not None:
        return None
    neurons = NeuronSet.load(arguments.neurons or arguments.random)
    return neurons.random_like(arguments.seed) if arguments.random else neurons


@contextmanager
def _training(model: nn.Module, neurons: NeuronSet | None, arguments: Namespace, folder: Path) -> Iterator[None]:
    """Inside, only what the arguments ask for can train; at the end the model is an ordinary one."""
    if neurons is None:
        layers = len(Decoder(model).layers)
        if arguments.freeze > layers:
            raise ValueError(f"--freeze {arguments.freeze}: the model has {layers} layers")
        freeze(model, range(arguments.freeze), embeddings=arguments.freeze > 0, head=arguments.freeze > 0)
        yield
        return
    with train_only(model, neurons) as trained:
        yield
        trained.save(folder / "tuning.safetensors", model=arguments.model)
        trained.merge()
