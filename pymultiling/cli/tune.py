"""The command `tune`: fine-tunes selected neurons, all but the first layers, or the whole model."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pymultiling.cli.shared.argument_types import name_and_path, positive_integer, positive_number, whole_number
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_set
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    TEXT_FORMATS,
    Once,
    add_chat_template,
    add_documents,
    add_model,
    document_options,
    most_tokens,
    pack_or_none,
    refuse_duplicates,
    texts_of,
)
from pymultiling.cli.shared.run_record import check_first_texts, hash_corpora, start_record
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.results.folders import result_folder

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from pymultiling.methods.fine_tuning import FineTuning
    from pymultiling.neurons.sets import NeuronSet

COMMAND = Command(
    name="tune",
    group=Group.TRAIN,
    summary="fine-tune selected neurons (arXiv 2402.18815), all but the first layers (arXiv 2503.11280), or all of "
    "a model",
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


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--texts",
        metavar="FILE",
        required=True,
        action=Once,
        help=f"texts to train on, such as fr.txt. FILE is {TEXT_FILES}",
    )
    trained = parser.add_mutually_exclusive_group(required=True)
    trained.add_argument(
        "--neurons",
        metavar="FILE|NAME=DIR",
        help="train only the parameters of these neurons: a set that detect wrote, such as "
        "found/neurons/fr.safetensors; or NAME=DIR, the set of this name in a folder, such as fr=found/neurons, or in "
        "the folder that detect wrote, such as fr=found, whose folder specific is read",
    )
    trained.add_argument(
        "--random",
        metavar="FILE|NAME=DIR",
        help="train only as many random neurons as this set has in each site and layer, for comparison with --neurons",
    )
    trained.add_argument(
        "--freeze",
        metavar="N",
        type=whole_number,
        help="keep the first N layers, the embeddings and the language-model head as they are, and train the rest; 0: "
        "train everything",
    )
    parser.add_argument(
        "--rate",
        metavar="X",
        type=positive_number,
        default=1e-4,
        help="highest learning rate; it rises from zero and falls back to zero during training (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="use gradient checkpointing: activations are computed a second time, which needs less memory and more "
        "time",
    )
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=positive_integer,
        default=1,
        help="how often training goes through all documents (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        type=positive_integer,
        default=8,
        help="documents per training step (default: %(default)s)",
    )
    parser.add_argument(
        "--documents", metavar="N", type=positive_integer, help="train on the first N documents only (default: all)"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number,
        default=0,
        help="random seed of the order of the documents, and of the neurons of --random (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        help="texts of one language that are not trained on, such as fr=fr.heldout.txt; the perplexity of all of them, "
        "whatever --tokens says, is measured before and after training; repeat the option for each language. FILE is "
        f"{TEXT_FORMATS}",
    )
    add_model(parser)
    add_documents(parser, perplexity=True)
    add_chat_template(parser)


def run(arguments: argparse.Namespace) -> None:
    """Trains, and writes the model, the changes of its neurons, the loss of each step and the perplexities."""
    from pymultiling.methods.ablation import ablation_matrix
    from pymultiling.methods.fine_tuning import fine_tune
    from pymultiling.methods.model_comparison import perplexity_change

    refuse_duplicates(arguments, "heldout")
    record = start_record(arguments)
    heldout = dict(arguments.heldout or ())
    heldout_texts = texts_of(arguments, heldout)
    (texts,) = with_stdin(arguments, {"texts": arguments.texts}).values()
    perplexities = None
    with result_folder(arguments.out) as folder:
        files = {"texts": arguments.texts} | {f"heldout, {language}": path for language, path in heldout.items()}
        check_first_texts(arguments, files)
        record.note(corpora=hash_corpora(files), seed=arguments.seed)
        neurons = _read_neurons(arguments)
        model, tokenizer = load(arguments, record)
        if arguments.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers 6 will change how it calls this
                model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]

        def measure_perplexities(stage: str) -> pandas.Series:
            with record.stage(stage):
                matrix = ablation_matrix(
                    model,
                    tokenizer,
                    {},
                    heldout_texts,
                    chat_template=arguments.chat_template,
                    progress=not arguments.quiet,
                    **document_options(arguments),
                )
            return cast("pandas.Series[float]", matrix.loc["none"])

        with _trainable(model, neurons, arguments, folder):
            if heldout:
                before = measure_perplexities("perplexity before")
            with record.stage("train"):
                training = fine_tune(
                    model,
                    tokenizer,
                    texts,
                    progress=not arguments.quiet,
                    rate=arguments.rate,
                    epochs=arguments.epochs,
                    batch=arguments.batch,
                    documents=arguments.documents,
                    tokens=most_tokens(arguments),
                    max_length=arguments.max_length,
                    pack=pack_or_none(arguments),
                    chat_template=arguments.chat_template,
                    seed=arguments.seed,
                )
        if heldout:
            after = measure_perplexities("perplexity after")
            perplexities = perplexity_change(before, after)
            perplexities.to_csv(folder / "perplexity.csv", index_label="language")
        with record.stage("write"):
            training.log.to_csv(folder / "log.csv", index=False)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
        record.note(
            texts=asdict(training.corpus),
            documents=training.documents,
            parameters=training.parameters,
            optimizer_bytes=training.optimizer_bytes,
        )
        record.write(folder)
    _print_training(training, neurons, perplexities)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _print_training(training: FineTuning, neurons: NeuronSet | None, perplexities: pandas.DataFrame | None) -> None:
    print(f"read: {training.corpus}")
    size = "" if neurons is None else f"{len(neurons):,} neurons, "
    print(f"trained on {training.documents:,} documents, {len(training.log):,} steps: {size}{training.parameters:,} "
          f"parameters, {training.optimizer_bytes / 1e6:,.2f} MB of optimizer state")  # fmt: skip
    if perplexities is not None:
        print("\nheld-out perplexity, and change of its logarithm")
        print(perplexities.to_string(float_format="{:,.4f}".format))


def _read_neurons(arguments: argparse.Namespace) -> NeuronSet | None:
    """Returns the neurons to train, or None with --freeze."""
    if arguments.freeze is not None:
        return None
    neurons = read_set(arguments.neurons or arguments.random)
    return neurons.random_like(arguments.seed) if arguments.random else neurons


@contextmanager
def _trainable(
    model: nn.Module, neurons: NeuronSet | None, arguments: argparse.Namespace, folder: Path
) -> Iterator[None]:
    """Inside the block, only the chosen parameters of the model are trainable.

    At the end of the block the differences of trained neurons are saved into `folder` and added to the weights.

    Args:
        model: the model.
        neurons: the neurons to train. None: all layers but the first `arguments.freeze`.
        arguments: the parsed command line.
        folder: the result folder.
    """
    from pymultiling.methods.freezing import freeze
    from pymultiling.methods.tuning import train_only
    from pymultiling.models.decoder import Decoder

    if neurons is None:
        layers = len(Decoder(model).layers)
        if arguments.freeze > layers:
            raise ValueError(f"--freeze {arguments.freeze}: the model has {layers} layers; give at most that many")
        freeze(model, range(arguments.freeze), embeddings=arguments.freeze > 0, head=arguments.freeze > 0)
        yield
        return
    with train_only(model, neurons) as trained:
        yield
        trained.save(folder / "tuning.safetensors", model=arguments.model)
        trained.merge()
