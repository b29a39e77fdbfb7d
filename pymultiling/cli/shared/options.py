"""Arguments that several commands take, what is checked once they are there, and what functions are given of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.shared.argument_types import count, positive, whole


class Once(argparse.Action):
    """An option that other commands take several times, and this one once."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"argument {option_string}: given more than once, and only one file is read")
        setattr(namespace, self.dest, values)


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--model", metavar="DIR|NAME", required=required, help="a folder, or a name on the Hugging Face Hub"
    )
    parser.add_argument("--revision", metavar="REV", help="the model's revision, on the Hub")
    add_families(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for the results; an earlier run's are replaced"
    )
    parser.add_argument(
        "--batch-tokens",
        metavar="N",
        type=count,
        default=4096,
        help="tokens in one forward, padding included (%(default)s)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is any")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: as stored; float16 as float32",
    )


def add_families(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--families", metavar="FILE", help="Python that calls pymultiling.register_family, run first")


def add_documents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", metavar="N", type=count, help="join a language's texts into documents of N tokens")
    add_max_length(parser, "documents")


def add_pass(parser: argparse.ArgumentParser) -> None:
    """How a pass over large corpora is run."""
    group = parser.add_argument_group("large corpora; torchrun -m pymultiling ... shares them out to several processes")
    group.add_argument(
        "--checkpoint", metavar="DIR", type=Path, help="folder for the state: the same command goes on from there"
    )
    group.add_argument(
        "--checkpoint-seconds", metavar="S", type=positive, default=60.0, help="write it every S seconds (%(default)g)"
    )
    group.add_argument("--checkpoint-documents", metavar="N", type=count, help="and every N documents")
    group.add_argument(
        "--workers", metavar="N", type=whole, default=1, help="processes that tokenise beside the forward (%(default)s)"
    )


def documents_of(arguments: argparse.Namespace) -> dict[str, int | None]:
    """How texts become documents, for the functions that read them."""
    return {name: getattr(arguments, name) for name in ("max_length", "batch_tokens", "pack")}


def pass_of(arguments: argparse.Namespace, part: str | None = None) -> dict[str, object]:
    """How a pass over texts is run; `part` is its name where a command has several, each with a checkpoint of its own."""
    names = ("batch_tokens", "workers", "checkpoint", "checkpoint_seconds", "checkpoint_documents")
    how = {name: getattr(arguments, name) for name in names}
    if part is not None and arguments.checkpoint is not None:
        how["checkpoint"] = arguments.checkpoint / part
    return {**how, "progress": True}


def documents_pass_of(arguments: argparse.Namespace, part: str | None = None) -> dict[str, object]:
    """As `pass_of`, and how texts become documents."""
    return {**pass_of(arguments, part), **documents_of(arguments)}


def add_max_length(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--max-length", metavar="N", type=count, default=512, help=f"cut {what} to N tokens (%(default)s)"
    )


def require(arguments: argparse.Namespace, options: tuple[str, ...], when: str = "") -> None:
    for option in options:
        if getattr(arguments, option) is None:
            arguments.parser.error(f"{when}--{option} is required")


def refuse_twice(arguments: argparse.Namespace, option: str) -> None:
    names = [name for name, _ in getattr(arguments, option) or ()]
    for name in names:
        if names.count(name) > 1:
            arguments.parser.error(f"argument --{option}: {name!r} is given more than once")
