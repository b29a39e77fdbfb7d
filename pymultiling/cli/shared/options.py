"""Options of several commands, their checks, and the keyword arguments that are made of their values."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pymultiling.cli.shared.argument_types import (
    encoding_name,
    integer_or,
    positive_integer,
    positive_number,
    whole_number,
)

if TYPE_CHECKING:
    from pymultiling.data.corpus_types import TextFile

PLACES = "a path, a URL such as hf://... or https://..., or a pattern such as 'fr-*.jsonl'"
TEXT_FORMATS = (
    "a .txt file (one text per line), a .jsonl file (field text) or a .parquet file (column text); .txt and .jsonl may "
    f"be compressed (.gz, .zst). It is given as {PLACES}"
)
MODELS = "a folder that save_pretrained wrote, a file of llama.cpp (.gguf), or a name on the Hugging Face Hub"
TEXT_FILES = f"{TEXT_FORMATS}, or - for texts from stdin, one per line"


class PassOptions(TypedDict):
    """Keyword arguments that say how a pass over texts runs, without `batch_tokens`."""

    workers: int
    checkpoint: Path | None
    checkpoint_seconds: float
    checkpoint_documents: int | None
    progress: bool


class DocumentOptions(TypedDict):
    """Keyword arguments that say how texts become documents and batches."""

    max_length: int
    batch_tokens: int
    pack: int | None


class DocumentPassOptions(PassOptions):
    """Keyword arguments that say how a pass runs and how texts become documents, without `batch_tokens`."""

    max_length: int
    pack: int | None
    chat_template: bool
    tokens: int | None


class Once(argparse.Action):
    """An option that may be given once, although other commands accept it several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        """Stores the value. If the option already has a value, exits with a message."""
        if getattr(namespace, self.dest) is not None:
            parser.error(f"argument {option_string}: given more than once, but only one file is read: give one")
        setattr(namespace, self.dest, values)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the result folder."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for the results; it is created, and the results of an earlier run in it are replaced",
    )


def add_model(parser: argparse.ArgumentParser, required: bool = True, by_memory: bool = False) -> None:
    """Adds the options for the model, for the result folder, and for how the model runs.

    Args:
        parser: the command's parser.
        required: whether --model must be given.
        by_memory: whether --batch-tokens may be "auto".
    """
    add_source(parser, f"the model: {MODELS} such as Qwen/Qwen3-0.6B", required)
    add_code(parser)
    add_out(parser)
    parser.add_argument(
        "--batch-tokens",
        metavar="N",
        type=integer_or("auto") if by_memory else positive_integer,
        default=4096,
        help="tokens in one forward pass, padding included; fewer need less memory"
        + ("; auto: as many as half of the free memory holds by an estimate" if by_memory else "")
        + " (default: %(default)s)",
    )
    add_device(parser)
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="skip the check, before measuring, that the model computes what its weights, configuration and family say",
    )


def add_source(
    parser: argparse.ArgumentParser, text: str, required: bool = False, metavar: str = "DIR|FILE|NAME"
) -> None:
    """Adds the options that say where a model is.

    Args:
        parser: the command's parser.
        text: the help of --model.
        required: whether --model must be given.
        metavar: what --model may be, in the usage.
    """
    parser.add_argument("--model", metavar=metavar, required=required, help=text)
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the Hub (default: its main branch)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the device and the number format of a model."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device that the model runs on; auto: the GPU if torch finds one, else the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="number format of the weights; auto: as stored, but float16 as "
        "float32, and bfloat16 as float32 on a CPU without bfloat16 instructions (default: %(default)s)",
    )


def add_code(parser: argparse.ArgumentParser) -> None:
    """Adds the options that run Python code: that of a model, and that for models of an unknown family."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the Python code that comes with some models; read it first (default: such models are refused)",
    )
    parser.add_argument(
        "--families",
        metavar="FILE",
        help="Python file that is run first; it calls pymultiling.register_family for models of an unknown family",
    )


def add_documents(
    parser: argparse.ArgumentParser, pack: int | None = None, tokens: int | str = "all", perplexity: bool = False
) -> None:
    """Adds the options that say how texts become documents.

    Args:
        parser: of the command.
        pack: tokens of a document that the command packs by default, as `default_pack` does; None: it packs none.
        tokens: default of --tokens.
        perplexity: whether the command measures perplexity.
    """
    usual = f"{pack}, or --max-length if that is less" if pack else "none"
    unjoined = ""
    if perplexity:
        unjoined = "; texts whose perplexity is measured are not joined: longer ones become documents of N tokens"
    parser.add_argument(
        "--pack",
        metavar="N",
        type=integer_or("none", zero_means_it=True),
        help="join the texts of a corpus into documents of N tokens, at most --max-length; an incomplete last "
        f"document is left out{unjoined}; none, or 0: each text is one document (default: {usual})",
    )
    add_max_length(parser, "document")
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=integer_or("all", zero_means_it=True),
        default=tokens,
        help="read the first documents of each corpus only, as many as have at most N tokens; all, or 0: the whole "
        "corpus (default: %(default)s)",
    )
    add_encoding(parser)
    add_field(parser)


def add_chat_template(parser: argparse.ArgumentParser) -> None:
    """Adds the option that puts texts into a chat template."""
    parser.add_argument(
        "--chat-template",
        action="store_true",
        help="give each text to the model as the user's message of its tokenizer's chat template, as a model that is "
        "tuned to follow instructions expects it; only the tokens of the text count, each in the context of what the "
        "template puts before it (default: texts stand alone)",
    )


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the encoding of texts."""
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        type=encoding_name,
        help="encoding of the files with texts, except .parquet, such as gb18030 (default: UTF-8)",
    )


def add_field(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the field that holds the texts."""
    parser.add_argument(
        "--field",
        metavar="NAME",
        default="text",
        help="field of .jsonl files, and column of .parquet files, that holds the texts (default: %(default)s)",
    )


def add_max_length(parser: argparse.ArgumentParser, unit: str) -> None:
    """Adds the option for the length at which each `unit` (document or sentence) is cut."""
    parser.add_argument(
        "--max-length",
        metavar="N",
        type=positive_integer,
        default=512,
        help=f"cut each {unit} after N tokens (default: %(default)s)",
    )


def add_pass(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how a pass over large corpora runs."""
    group = parser.add_argument_group(
        "large corpora",
        "Several processes share the work when the command is started as torchrun --nproc-per-node N -m pymultiling "
        "COMMAND ...",
    )
    group.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        help="folder that the state of the unfinished run is saved to; after an interruption the same command "
        "continues from it (default: checkpoint in --out, until the results are there)",
    )
    group.add_argument(
        "--checkpoint-seconds",
        metavar="S",
        type=positive_number,
        default=60.0,
        help="save the state every S seconds (default: %(default)g)",
    )
    group.add_argument(
        "--checkpoint-documents",
        metavar="N",
        type=positive_integer,
        help="also save the state after every N documents (default: by time only)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=whole_number,
        default=1,
        help="processes that tokenise texts while the model runs; 0: tokenise without extra processes "
        "(default: %(default)s)",
    )


def text_file(arguments: argparse.Namespace, path: str) -> TextFile:
    """Returns a file of texts in the encoding of the command line, with the field that holds the texts."""
    from pymultiling.data.corpus_types import TextFile

    return TextFile(path, arguments.encoding, getattr(arguments, "field", "text"))


def texts_of(arguments: argparse.Namespace, files: Mapping[str, str]) -> dict[str, TextFile]:
    """Returns the corpora that the files {name: path} are, as `text_file` does."""
    return {name: text_file(arguments, path) for name, path in files.items()}


def document_options(arguments: argparse.Namespace) -> DocumentOptions:
    """Returns the keyword arguments that say how texts become documents and batches."""
    return {
        "max_length": arguments.max_length,
        "batch_tokens": arguments.batch_tokens,
        "pack": pack_or_none(arguments),
    }


def pass_options(arguments: argparse.Namespace, part: str | None = None) -> PassOptions:
    """Returns the keyword arguments that say how a pass over texts runs.

    Args:
        arguments: the parsed command line.
        part: the name of the pass in a command with several passes. Each gets a checkpoint folder of this name.
    """
    checkpoint = arguments.checkpoint
    if part is not None and checkpoint is not None:
        checkpoint = checkpoint / part
    return {
        "workers": arguments.workers,
        "checkpoint": checkpoint,
        "checkpoint_seconds": arguments.checkpoint_seconds,
        "checkpoint_documents": arguments.checkpoint_documents,
        "progress": not arguments.quiet,
    }


def document_pass_options(arguments: argparse.Namespace, part: str | None = None) -> DocumentPassOptions:
    """Returns the keyword arguments of a pass over texts that become documents.

    Args:
        arguments: the parsed command line.
        part: as in `pass_options`.
    """
    return {
        **pass_options(arguments, part),
        "max_length": arguments.max_length,
        "pack": pack_or_none(arguments),
        "chat_template": arguments.chat_template,
        "tokens": most_tokens(arguments),
    }


def tokens_or_none(arguments: argparse.Namespace) -> int | None:
    """Returns --batch-tokens of a command that accepts "auto", for which it returns None."""
    return None if arguments.batch_tokens == "auto" else arguments.batch_tokens


def default_pack(arguments: argparse.Namespace, pack: int) -> int | str:
    """Returns --pack, by default this number of tokens, or --max-length if that is less."""
    given: int | str | None = arguments.pack
    return min(pack, arguments.max_length) if given is None else given


def pack_or_none(arguments: argparse.Namespace) -> int | None:
    """Returns --pack, or None for "none"."""
    return None if arguments.pack == "none" else arguments.pack


def most_tokens(arguments: argparse.Namespace) -> int | None:
    """Returns --tokens, or None for "all"."""
    return None if arguments.tokens == "all" else arguments.tokens


def require(arguments: argparse.Namespace, options: tuple[str, ...], reason: str = "") -> None:
    """Exits with a message if one of the options is missing. `reason` is the beginning of the message."""
    for option in options:
        if getattr(arguments, option) is None:
            arguments.parser.error(f"{reason}--{option} is required")


def refuse_duplicates(arguments: argparse.Namespace, option: str) -> None:
    """Exits with a message if an option NAME=FILE was given twice with the same name."""
    names = [name for name, _ in getattr(arguments, option) or ()]
    for name in names:
        if names.count(name) > 1:
            arguments.parser.error(f"argument --{option}: {name!r} is given more than once: give each name once")
