"""Prints the share of gated_ffn's executed instructions that find the tokens of the documents, from its machine code.

    python -m benchmarks.machine_code.document_share [--documents 100 400] [--tokens 40]

The kernel (bfloat16, silu, gated) is compiled ahead of time for an H100. No GPU is needed. A program computes a block
of columns of one document. It runs the loop over tiles once for each tile of the document's tokens, and everything else
once. Instructions find tokens if their source line lies in `find_document` or `find_tokens`. A batch without padding is
"in order"; the kernel then gets no `order`. In a batch with padding the tokens of a document lie "side by side", and
the branch for "scattered" tokens is skipped. Both sides of all other branches count as executed.
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

import pandas
import triton

from benchmarks.machine_code import cubin
from benchmarks.machine_code.ahead_of_time import compile_variant, machine_code, variants
from benchmarks.machine_code.sass import find_loops, innermost_loops, parse, sweep_loops
from pymultiling.triton_kernels import documents
from pymultiling.triton_kernels.gated_ffn import SPAN

TARGET = "sm_90"
GENERAL, IN_ORDER = "bf16, silu, gated, rows of 256 bytes", "bf16, silu, gated, in order, rows of 256 bytes"
LAYOUTS = {"in order": IN_ORDER, "side by side": GENERAL, "scattered": GENERAL}  # with the variant of the kernel
FUNCTIONS = (documents.find_document, documents.find_tokens)
FRAME = re.compile(r'File "([^"]*)", line (\d+)')
INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/")


def source_lines(listing: str) -> dict[int, set[tuple[str, int]]]:
    """Returns {address: lines} of the instructions: a line of the kernel, and those of the functions it calls there.

    Args:
        listing: what `cubin.disassemble_with_lines` returns. The comments before an instruction hold for all that
            follow, up to the next comments.
    """
    lines: dict[int, set[tuple[str, int]]] = {}
    frames: set[tuple[str, int]] = set()
    is_new = False  # whether an instruction has come since the last comment
    for text in listing.splitlines():
        if text.strip().startswith("//## File"):
            frames = set() if is_new else frames
            frames |= {(Path(file).name, int(line)) for file, line in FRAME.findall(text)}
            is_new = False
        elif match := INSTRUCTION.match(text):
            lines[int(match[1], 16)] = frames
            is_new = True
    return lines


def lines_of(functions: tuple[triton.JITFunction, ...], text: str = "") -> set[tuple[str, int]]:
    """Returns the source lines of the functions that contain the text."""
    lines = set()
    for function in functions:
        source, first = inspect.getsourcelines(function.fn)
        file = Path(inspect.getsourcefile(function.fn)).name
        lines |= {(file, first + number) for number, line in enumerate(source) if text in line}
    return lines


def count_instructions(layout: str) -> dict[str, int]:
    """Counts the instructions that a program of gated_ffn executes.

    Returns:
        Of one tile: "tile", and "tile, finding" of those that find tokens; and "once" and "once, finding" of the rest.
    """
    kernel = compile_variant(variants(TARGET)["gated_ffn", LAYOUTS[layout]], TARGET)
    code = parse(machine_code(kernel))
    code = code[: max(place for place, x in enumerate(code) if x.opcode == "EXIT") + 1]  # padding follows
    (tile,) = sweep_loops(code)
    if len(innermost_loops(code)) != 1 or len(find_loops(code)) != 2:
        raise ValueError("the kernel has other loops than those over spans and tiles: count their iterations here")
    lines = source_lines(cubin.disassemble_with_lines(kernel.asm["cubin"]))
    finding = lines_of(FUNCTIONS)
    skipped = lines_of((documents.find_tokens,), "tl.load(") if layout == "side by side" else set()
    in_tile = {instruction.address for instruction in tile}
    counts = dict.fromkeys(("tile", "tile, finding", "once", "once, finding"), 0)
    for instruction in code:
        if lines[instruction.address].isdisjoint(skipped):
            part = "tile" if instruction.address in in_tile else "once"
            counts[part] += 1
            counts[f"{part}, finding"] += not lines[instruction.address].isdisjoint(finding)
    return counts


def make_row(layout: str, count: int, tokens: int) -> dict[str, object]:
    """Returns the table's row for a batch of `count` documents of `tokens` tokens.

    One more program for each block of columns computes the tokens of no document, of which there are none.
    """
    if tokens > SPAN:
        raise ValueError(f"documents of more than {SPAN} tokens have several spans")
    counts = count_instructions(layout)
    tiles = -(-tokens // variants(TARGET)["gated_ffn", LAYOUTS[layout]].constants["BLOCK_T"])
    executed, finding = (
        count * (tiles * counts[f"tile{kind}"] + counts[f"once{kind}"]) + counts[f"once{kind}"]
        for kind in ("", ", finding")
    )
    return {
        "documents": count,
        "tokens of each": tokens,
        "layout": layout,
        "instructions": tiles * counts["tile"] + counts["once"],
        "find tokens": tiles * counts["tile, finding"] + counts["once, finding"],
        "share %": round(100 * finding / executed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", nargs="+", type=int, default=[100, 400], help="numbers of documents")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of a document (%(default)s)")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it.")
    table = [make_row(layout, count, options.tokens) for count in options.documents for layout in LAYOUTS]
    print(pandas.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
