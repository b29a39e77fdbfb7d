"""The command line in a run's record gives the same arguments when it is parsed again."""

import shlex

import pytest

from pymultiling.cli.shared.command_line import make_parser
from pymultiling.cli.shared.run_record import NOT_ARGUMENTS, start_record

COMMANDS = [
    "demo --out out --documents 3",
    "detect --model a/b --corpus fr=fr.txt --corpus de=de.txt --sites q,ffn --ffn 100 --share 0.5 --out out --pack 8",
    "detect --model a --revision r --corpus fr=fr.txt --threshold 0.001 --qk fast --out out",
    "ablate --neurons specific --neurons x=x.safetensors --texts fr=fr.txt --random 0 --scale 2 --model a --out out",
    "mwork --demo --understanding 0 --generation 2 --out out",
    "count --corpus fr=fr.jsonl --positions response --model a --out out",
    "classify --counts counts --before fr=fr.safetensors --lambda 0.1 --scale paper --out out",
    "pmi --inputs in.tsv --source de --target en --others es,ru --count-only --name de=German --model a --out out",
    "pmi --inputs in.tsv --source de --target en --task free --instruction 'Say yes/no' --chat --model a --out out",
    "ilo --parallel in.tsv --languages de,fr --k 3 --model a --out out",
    "lens --texts fr=fr.txt --languages de,fr --model a --out out",
    "tune --texts fr.txt --freeze 0 --rate 0.1 --heldout fr=fr.txt --checkpointing --model a --out out",
]


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: " ".join(line.split()[:3]))
def test_the_recorded_command_line_gives_the_same_arguments(line):
    arguments = make_parser().parse_args(shlex.split(line))
    command_line = start_record(arguments).record["command_line"]
    words = [word for argument_words in command_line.values() for word in argument_words]
    parsed_again = make_parser().parse_args([arguments.command, *words])
    values = {name: value for name, value in vars(arguments).items() if name not in NOT_ARGUMENTS}
    assert {name: getattr(parsed_again, name) for name in values} == values
    assert set(command_line) <= set(values)  # nothing of NOT_ARGUMENTS is recorded


def test_the_recorded_command_line_has_every_default():
    arguments = make_parser().parse_args(shlex.split("classify --counts a --counts fr=b --out out"))
    assert start_record(arguments).record["command_line"] == {
        "format": ["--format", "png"],
        "counts": ["--counts", "a", "--counts", "fr=b"],
        "method": ["--method", "ternary"],
        "top": ["--top", "0.01"],
        "bar": ["--bar", "0.95"],
        "lam": ["--lambda", "auto"],
        "scale": ["--scale", "released"],
        "out": ["--out", "out"],
    }
