"""Compares the results of `pymultiling detect` with different numbers of processes.

    python -m benchmarks.endurance.many_processes                           with the texts in the package
    python -m benchmarks.endurance.many_processes --corpora FOLDER          with every LANGUAGE.txt.gz in FOLDER

The model is the demo model, with one thread per process. There are runs with

- 1, 2 and 4 processes (--processes),
- 2 x 2 processes in two network namespaces, connected by a veth pair, which find each other by torchrun's rendezvous.
  This needs Linux and the permission to create namespaces. Otherwise the run is skipped with a message.
- 2 processes (--killed-of), one of which is killed in the middle of the run, with --max-restarts.

Prints the duration of each run. The exit status is 0 if all results equal those of the first run: sets, minimum, votes
and counts bit for bit, and sums up to 1e-12. Otherwise it is 1. With --rounds, the runs with 1 and 2 processes are
repeated alternately, because the machine's speed may change, and the speedup is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pymultiling as pml
from benchmarks.endurance.survival import SUM_TOLERANCE, corpus_files, describe_difference, difference, load_statistics
from pymultiling import demo_model

Result: TypeAlias = tuple[dict[str, pml.NeuronSet], dict[str, pml.NeuronStatistics]]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# A script for bash. Its arguments, "$@", are torchrun and the options that both nodes share. The script adds
# the options that differ between the nodes. {command} is replaced by the command that torchrun runs.
NAMESPACES = """
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip netns add left
ip netns add right
ip link add name vleft type veth peer name vright
n=1
for side in left right; do
    ip link set v$side netns $side
    ip -n $side addr add 10.9.0.$n/24 dev v$side
    ip -n $side link set v$side up
    ip -n $side link set lo up
    n=2
done
GLOO_SOCKET_IFNAME=vright ip netns exec right "$@" --rdzv-conf is_host=0 --local-addr 10.9.0.2 {command} &
GLOO_SOCKET_IFNAME=vleft ip netns exec left "$@" --rdzv-conf is_host=1 --local-addr 10.9.0.1 {command}
wait $!
"""


def main() -> int:
    arguments = parse()
    folder = Path(arguments.work or tempfile.mkdtemp(prefix="processes-"))
    command_for = prepare_inputs(folder, arguments)
    runs: dict[str, Callable[[Path], str | None]] = {}
    for count in arguments.processes:
        runs[f"{count} processes"] = lambda out, count=count: run_on_one_network(count, command_for(out), out)
    runs["2 x 2 processes, two networks"] = lambda out: run_on_two_networks(command_for(out), out)
    runs[f"{arguments.killed_of} processes, one killed"] = lambda out: run_with_a_kill(
        arguments.killed_of, command_for(out), arguments.kill_after, out
    )
    repeated = [f"{count} processes" for count in (1, 2) if count in arguments.processes] * (arguments.rounds - 1)
    expected: Result | None = None
    seconds: dict[str, list[float]] = {}
    failed = False
    for number, name in enumerate([*runs, *repeated]):
        out = folder / f"run-{number}"
        skip_reason = runs[name](out)
        if skip_reason:
            print(f"{name}: skipped, {skip_reason}", flush=True)
            continue
        sets = {path.stem: pml.NeuronSet.load(path) for path in sorted((out / "results" / "neurons").iterdir())}
        statistics_of_run = load_statistics(out)
        expected = expected or (sets, statistics_of_run)
        worst = difference(statistics_of_run, expected[1])
        same = sets == expected[0] and worst is not None and worst <= SUM_TOLERANCE
        failed |= not same
        duration = json.loads((out / "results" / "run.json").read_text())["seconds"]["detect"]
        seconds.setdefault(name, []).append(duration)
        outcome = "same results" if same else "DIFFERENT RESULTS"
        print(f"{name}: {duration:.1f} s, {outcome}, {describe_difference(worst)}", flush=True)
    if {"1 processes", "2 processes"} <= seconds.keys():
        seconds_of_1, seconds_of_2 = (statistics.median(seconds[f"{count} processes"]) for count in (1, 2))
        print(f"2 processes are {seconds_of_1 / seconds_of_2:.2f} times as fast as 1 (medians of {arguments.rounds})")
    return int(failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora",
        type=Path,
        help="folder with a LANGUAGE.txt.gz for each language (default: the texts in the package)",
    )
    parser.add_argument("--languages", nargs="+", help="languages to use (default: all)")
    parser.add_argument("--sites", default="ffn,v,o", help="sites to measure (%(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="numbers of processes (default: 1 2 4)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="times that 1 and 2 processes are run (%(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a batch (%(default)s)")
    parser.add_argument(
        "--killed-of", type=int, default=2, help="number of processes of which one is killed (%(default)s)"
    )
    parser.add_argument(
        "--kill-after", type=float, default=10.0, help="seconds from the first checkpoint to the kill (%(default)s)"
    )
    parser.add_argument("--work", type=Path, help="folder for the results and logs (default: a temporary folder)")
    return parser.parse_args()


def prepare_inputs(folder: Path, arguments: argparse.Namespace) -> Callable[[Path], list[str]]:
    """Writes the model and, without --corpora, the package's texts to `folder`.

    Returns:
        command_for(out): the arguments of Python for a run that writes its results and checkpoints to the folder `out`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in demo_model.load():
        part.save_pretrained(folder / "model")
    files = corpus_files(folder, arguments.corpora)
    selected = {language: files[language] for language in arguments.languages or files}

    def command_for(out: Path) -> list[str]:
        options = ["-m", "pymultiling", "detect", "--model", str(folder / "model"), "--sites", arguments.sites]
        options += ["--batch-tokens", str(arguments.batch_tokens), "--out", str(out / "results")]
        options += ["--checkpoint", str(out / "state"), "--checkpoint-seconds", "2"]
        return options + [f"--corpus={language}={path}" for language, path in selected.items()]

    return command_for


def start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Starts a command. Creates the folder `out` and writes the log of the command there."""
    out.mkdir()
    with (out / "log.txt").open("w") as log:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)


def run_on_one_network(count: int, command: list[str], out: Path) -> None:
    """Runs a command in `count` processes."""
    check(start([*TORCHRUN, "--standalone", "--nproc-per-node", str(count), *command], out))


def run_on_two_networks(command: list[str], out: Path) -> str | None:
    """Runs a command in 2 x 2 processes.

    Returns:
        The reason why this machine cannot run it, or None if it ran.
    """
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "the command unshare or ip is missing"
    script = NAMESPACES.format(command=" ".join(f"'{part}'" for part in command))
    node = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.9.0.1:29400"]
    unshare = ["unshare", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        return "this user cannot create namespaces"
    # The second "bash" is $0 of the script. The arguments after it are "$@".
    check(start([*unshare, "bash", "-c", script, "bash", *TORCHRUN, *node, "--rdzv-id", "pymultiling"], out))
    return None


def run_with_a_kill(count: int, command: list[str], after: float, out: Path) -> None:
    """Runs a command in `count` processes and kills the second process `after` seconds after its first checkpoint."""
    options = ["--standalone", "--max-restarts", "1", "--nproc-per-node", str(count)]
    launcher = start([*TORCHRUN, *options, *command], out)
    state = out / "state" / f"process-1-of-{count}"
    while not list(state.glob("*.json")):
        if launcher.poll() is not None:
            check(launcher)
            raise RuntimeError("the run ended before its first checkpoint: use more texts")
        time.sleep(0.1)
    time.sleep(after)
    for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
            break
    else:
        raise RuntimeError("the second process ended before it was killed: use a smaller --kill-after")
    check(launcher)


def check(process: subprocess.Popen[bytes]) -> None:
    """Waits for a process and raises RuntimeError if it fails."""
    if process.wait():
        raise RuntimeError(f"{process.args} ended with exit status {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
