"""The command `tune`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import count, named, positive, whole
from pymultiling.cli.options import Once, add_documents, add_model, command, refuse_twice


def add(commands) -> None:
    what = "train some neurons (arXiv 2402.18815), all but the early layers (arXiv 2503.11280), or all of a model"
    parser = command(commands, "tune", run, what)
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
    from pymultiling.commands import tune

    refuse_twice(arguments, "heldout")
    if arguments.rate is None:
        arguments.rate = 1e-3 if arguments.freeze is None else 1e-4
    tune.run(arguments)
