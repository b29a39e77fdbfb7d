"""The options of a rule that selects neurons, and what is printed of the selected ones, for `detect` and `select`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

from pymultiling.cli.shared.argument_types import count_or_fraction, fraction
from pymultiling.cli.shared.command import Parser
from pymultiling.results.tables import counts_by_site

if TYPE_CHECKING:
    from pymultiling.methods.detection import Detection
    from pymultiling.neurons.selection import Threshold, TopK, TopMean

Rule = TypeVar("Rule", "TopK", "TopMean")
MAX_RATIO = 2  # of numbers and mean lengths of documents between languages whose counts of neurons are compared


def add_selection(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options of a rule, and returns the group that they are in."""
    rule = parser.add_argument_group(
        "selection of neurons",
        "By default a neuron is selected for a language if it is among the most important neurons of its layer and "
        "site in the language's documents. --threshold replaces this rule.",
    )
    rule.add_argument(
        "--threshold",
        metavar="E",
        type=float,
        help="select neurons whose importance is at least E in every document of the language (arXiv 2402.18815, "
        "eq. 2) (default: not used)",
    )
    rule.add_argument(
        "--fraction",
        metavar="F",
        type=fraction,
        default=argparse.SUPPRESS,
        help="fraction of the neurons of each layer and site that count as the most important, such as 0.05: the same "
        "as --ffn F --attention F (default: 0.05)",
    )
    rule.add_argument(
        "--ffn",
        metavar="K",
        type=count_or_fraction,
        default=argparse.SUPPRESS,
        help="how many FFN neurons of a layer count as the most important: a fraction such as 0.05, or a count such as "
        "100 (default: 0.05)",
    )
    rule.add_argument(
        "--attention",
        metavar="K",
        type=count_or_fraction,
        default=argparse.SUPPRESS,
        help="the same for each of q, k, v and o of a layer: a fraction, or a count (default: 0.05)",
    )
    rule.add_argument(
        "--share",
        metavar="S",
        type=float,
        default=argparse.SUPPRESS,
        help="fraction of the language's documents in which a neuron must be among the most important; 1: in every "
        "document (default: 0.7)",
    )
    return rule


def selection_rule(arguments: argparse.Namespace) -> TopK | Threshold:
    """Returns the rule. Exits with a message if options contradict each other or are out of range."""
    from pymultiling.neurons.selection import Threshold, TopK

    if arguments.threshold is None:
        return top_rule(arguments, TopK)
    refuse_together(arguments, "threshold", "fraction", "ffn", "attention", "share")
    return Threshold(arguments.threshold)


def top_rule(arguments: argparse.Namespace, rule: type[Rule]) -> Rule:
    """Returns a rule that was given by how many neurons count as the most important."""
    if hasattr(arguments, "fraction"):
        refuse_together(arguments, "fraction", "ffn", "attention")
        values = {"ffn": arguments.fraction, "attention": arguments.fraction}
    else:
        values = {name: getattr(arguments, name) for name in ("ffn", "attention") if hasattr(arguments, name)}
    if hasattr(arguments, "share"):
        values["share"] = arguments.share
    parser: Parser = arguments.parser
    try:
        return rule(**values)
    except ValueError as error:
        parser.error(str(error))


def refuse_together(arguments: argparse.Namespace, option: str, *others: str) -> None:
    """Exits with a message if one of the other options was given, which has no value by default."""
    for other in others:
        if getattr(arguments, other, None) is not None:
            arguments.parser.error(f"argument --{option}: not allowed with --{other}")


def print_detection(detection: Detection, rule: TopK | TopMean | Threshold) -> None:
    """Prints how many neurons were selected, and of how much text."""
    from pymultiling.neurons.selection import TopK, TopMean

    print(counts_by_site(detection.report()), end="\n\n")
    for language, statistics in detection.statistics.items():
        size = f"{statistics.documents:,} documents, {statistics.tokens:,} tokens"
        report = f"; {detection.corpora[language]}" if language in detection.corpora else ""
        print(f"{language}: {size}{report}")
    if not isinstance(rule, TopMean):
        _print_unlike_documents(detection, in_all=not isinstance(rule, TopK) or rule.share == 1)
    if isinstance(rule, TopK) and rule.share == 1:
        for language, neurons in detection.specific().items():
            if not len(neurons):
                print(
                    f"{language}: no neuron was selected for this language only: try a smaller --share, such as 0.7, "
                    "so that a neuron needs to be among the most important in fewer documents"
                )


def _print_unlike_documents(detection: Detection, in_all: bool) -> None:
    """Says if numbers of neurons differ between languages because their documents do.

    Args:
        detection: the selected neurons.
        in_all: whether a neuron has to be important in all documents of a language.
    """
    counts = {language: each.documents for language, each in detection.statistics.items()}
    lengths = {language: each.tokens / each.documents for language, each in detection.statistics.items()}
    for values, what, is_too_much, advice in (
        (lengths, "tokens in a document on average", True, "pack them in detect (such as --pack 128)"),
        (counts, "documents", in_all, "measure as much text of each (--tokens, --pack), or select with --share 0.7"),
    ):
        fewest, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        if is_too_much and values[most] > MAX_RATIO * values[fewest]:
            print(
                f"{fewest} has {values[fewest]:,.0f} {what} and {most} has {values[most]:,.0f}, which changes how many "
                f"neurons are selected: to compare languages, {advice}"
            )
            return
