"""The command `tune`: from texts to a model of which some neurons, or layers, were trained on them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import count, named, positive, whole
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import Once, add_documents, add_model, documents_of, refuse_twice
from pymultiling.cli.shared.run_record import hashes, record_of
from pymultiling.results.folders import result_folder

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from pymultiling.methods.fine_tuning import FineTuning
    from pymultiling.neurons.sets import NeuronSet

COMMAND = Command(
    name="tune",
    group=Group.TRAIN,
    summary="train some neurons (arXiv 2402.18815), all but the early layers (arXiv 2503.11280), or all of a model",
    title="Trained neurons",
    about="What training added to some of a model's parameters.",
    papers={
        "2402.18815": "importance of neurons, language neurons and what happens without them",
        "2503.11280": "one space of languages, training all but the early layers",
    },
    whole=("revision",),
    example="pymultiling tune --model Qwen/Qwen3-0.6B --texts fr.txt --neurons found/neurons/fr.safetensors "
    "--heldout fr=fr.heldout.txt --out tuned",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument("--texts", metavar="FILE", required=True, action=Once, help="what to train on, as for detect")
    parts = parser.add_mutually_exclusive_group(required=True)
    parts.add_argument(
        "--neurons", metavar="FILE", help="train these neurons' parameters alone: a set that detect wrote"
    )
    parts.add_argument(
        "--random",
        metavar="FILE",
        help="train as many random neurons as this set has, the same number a site and layer",
    )
    parts.add_argument(
        "--freeze",
        metavar="N",
        type=whole,
        help="freeze the first N layers, the embeddings and the head, and train the rest; 0: train all",
    )
    parser.add_argument(
        "--rate",
        metavar="X",
        type=positive,
        help="highest rate of learning; it rises from zero and falls to zero (1e-3 for neurons, else 1e-4)",
    )
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again to save memory")
    parser.add_argument("--epochs", metavar="N", type=count, default=1, help="passes over the texts (%(default)s)")
    parser.add_argument("--batch", metavar="N", type=count, default=8, help="documents of a step (%(default)s)")
    parser.add_argument("--documents", metavar="N", type=count, help="train on the first N; all if not given")
    parser.add_argument(
        "--seed", metavar="N", type=whole, default=0, help="of the order, and of --random (%(default)s)"
    )
    parser.add_argument(
        "--heldout",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        help="texts whose perplexity is measured before and after; repeat",
    )
    add_model(parser)
    add_documents(parser)


def run(arguments: argparse.Namespace) -> None:
    """Trains; writes the model, what was added to it, the loss by step, and perplexities before and after."""
    from pymultiling.methods.ablation import ablation_matrix
    from pymultiling.methods.fine_tuning import fine_tune
    from pymultiling.methods.model_comparison import perplexity_change

    refuse_twice(arguments, "heldout")
    if arguments.rate is None:
        arguments.rate = 1e-3 if arguments.freeze is None else 1e-4
    record = record_of(arguments)
    heldout = dict(arguments.heldout or ())
    table = None
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
    _print(found, neurons, table)
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _print(found: FineTuning, neurons: NeuronSet | None, perplexities: pandas.DataFrame | None) -> None:
    print(f"read: {found.corpus}")
    what = "" if neurons is None else f"{len(neurons):,} neurons, "
    print(f"trained on {found.documents:,} documents, {len(found.log):,} steps: {what}{found.parameters:,} parameters, "
          f"{found.optimizer_bytes / 1e6:,.2f} MB of optimizer state")  # fmt: skip
    if perplexities is not None:
        print(
            "\nheld-out perplexity, and change of its logarithm",
            perplexities.to_string(float_format="{:,.4f}".format),
            sep="\n",
        )


def _neurons(arguments: argparse.Namespace) -> NeuronSet | None:
    """The set to train; None: --freeze says it."""
    from pymultiling.neurons.sets import NeuronSet

    if arguments.freeze is not None:
        return None
    neurons = NeuronSet.load(arguments.neurons or arguments.random)
    return neurons.random_like(arguments.seed) if arguments.random else neurons


@contextmanager
def _training(
    model: nn.Module, neurons: NeuronSet | None, arguments: argparse.Namespace, folder: Path
) -> Iterator[None]:
    """Inside, only what the arguments ask for can train; at the end the model is an ordinary one."""
    from pymultiling.methods.freezing import freeze
    from pymultiling.methods.tuning import train_only
    from pymultiling.models.decoder import Decoder

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
