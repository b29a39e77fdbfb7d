"""`pymultiling detect` in several processes: the same sets as in one, also over two networks and when a process is killed.

    python -m benchmarks.endurance.many_processes                             the texts in the package
    python -m benchmarks.endurance.many_processes --corpora FOLDER            every LANGUAGE.txt.gz there

The embedded model, one thread a process. Runs with 1, 2 and 4 processes; 2 x 2 in two network namespaces that a veth pair joins
(Linux, and the right to make them: otherwise left out, and said so), which meet by torchrun's own rendezvous; and 2 (--killed-of) of
which one is killed mid-way, under --max-restarts. Prints how long the pass took, and exits with 1 unless all results are the first's:
sets, minimum, votes and counts bit for bit, sums to 1e-12. With --rounds, the runs with 1 and 2 processes are repeated in turn, since
a machine's speed changes, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics as numbers
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pymultiling as pml
from benchmarks.endurance.survival import SUMS, difference, files_of, statistics
from pymultiling import demo_model

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
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
    command = detect_command(folder, arguments)
    runs = {
        f"{count} processes": lambda out, count=count: alone(count, command(out), out) for count in arguments.processes
    }
    runs["2 x 2 processes, two networks"] = lambda out: two_networks(command(out), out)
    count = arguments.killed_of
    runs[f"{count} processes, one killed"] = lambda out: killed(count, command(out), arguments.kill_after, out)
    again = [f"{count} processes" for count in (1, 2) if count in arguments.processes] * (arguments.rounds - 1)
    truth, seconds, failed = None, {}, False
    for number, name in enumerate([*runs, *again]):
        run, out = runs[name], folder / f"run-{number}"
        left_out = run(out)
        if left_out:
            print(f"{name}: left out, {left_out}", flush=True)
            continue
        sets = {path.stem: pml.NeuronSet.load(path) for path in sorted((out / "results" / "neurons").iterdir())}
        found = sets, statistics(out)
        truth = truth or found
        worst = difference(found[1], truth[1])
        same = sets == truth[0] and worst <= SUMS
        failed |= not same
        took = json.loads((out / "results" / "run.json").read_text())["seconds"]["detect"]
        seconds.setdefault(name, []).append(took)
        says = "the same sets" if same else "OTHER SETS"
        print(f"{name}: {took:.1f} s, {says}, sums differ by {worst:.1e}", flush=True)
    if {"1 processes", "2 processes"} <= seconds.keys():
        one, two = (numbers.median(seconds[f"{count} processes"]) for count in (1, 2))
        print(f"2 processes are {one / two:.2f} times as fast as 1 (medians of {arguments.rounds})")
    return failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="a folder with LANGUAGE.txt.gz")
    parser.add_argument("--languages", nargs="+", help="some of them")
    parser.add_argument("--sites", default="ffn,v,o")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--killed-of", type=int, default=2, help="how many there are when one is killed")
    parser.add_argument("--kill-after", type=float, default=10.0, help="seconds of measuring")
    parser.add_argument("--work", type=Path, help="a folder for what is written")
    return parser.parse_args()


def detect_command(folder: Path, arguments: argparse.Namespace):
    """A function of where it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in demo_model.load():
        part.save_pretrained(folder / "model")
    files = files_of(folder, arguments.corpora)
    chosen = {language: files[language] for language in arguments.languages or files}

    def command(out: Path) -> list[str]:
        found = ["-m", "pymultiling", "detect", "--model", str(folder / "model"), "--sites", arguments.sites]
        found += ["--batch-tokens", str(arguments.batch_tokens), "--out", str(out / "results")]
        found += ["--checkpoint", str(out / "state"), "--checkpoint-seconds", "2"]
        return found + [f"--corpus={language}={path}" for language, path in chosen.items()]

    return command


def start(command: list[str], out: Path) -> subprocess.Popen:
    out.mkdir()
    with open(out / "log.txt", "w") as log:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)


def alone(count: int, command: list[str], out: Path) -> None:
    check(start([*TORCHRUN, "--standalone", "--nproc-per-node", str(count), *command], out))


def two_networks(command: list[str], out: Path) -> str | None:
    """Why it cannot be run, if it cannot."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "there is no unshare or no ip"
    script = NAMESPACES.format(command=" ".join(f"'{part}'" for part in command))
    node = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.9.0.1:29400"]
    new = ["unshare", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*new, "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here"
    check(start([*new, "bash", "-c", script, "bash", *TORCHRUN, *node, "--rdzv-id", "pymultiling"], out))
    return None


def killed(count: int, command: list[str], after: float, out: Path) -> None:
    """The second process is killed once it has measured for so many seconds."""
    options = ["--standalone", "--max-restarts", "1", "--nproc-per-node", str(count)]
    launcher = start([*TORCHRUN, *options, *command], out)
    state = out / "state" / f"process-1-of-{count}"
    while not list(state.glob("*.json")):
        if launcher.poll() is not None:
            check(launcher)
            raise RuntimeError("the run has ended already: give it more texts")
        time.sleep(0.1)
    time.sleep(after)
    for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
            break
    else:
        raise RuntimeError("the second process has ended already: give a smaller --kill-after")
    check(launcher)


def check(process: subprocess.Popen) -> None:
    if process.wait():
        raise RuntimeError(f"{process.args} ended with {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
