"""Small folders of results of every kind, written as the commands write them, for the report."""

import json
from pathlib import Path

import pandas
import torch

import pymultiling as pml
from pymultiling.cli.shared.result_files import write_ablation
from pymultiling.neurons.activation_statistics import ActivationStatistics

HOSTILE = "<script>"  # a name that a file can have
LANGUAGES = ("fr", HOSTILE, "<img src=x onerror=alert(1)>")
LAYERS, WIDTHS = 3, {"ffn": 12, "q": 8}
KINDS = ("detect", "ablate", "count", "classify", "lens", "ilo", "pmi", "mwork", "tune", "reproduce",
         "reproduce_ternary", "reproduce_pmi")  # fmt: skip


def random_sets(seed: int = 0, languages: tuple[str, ...] = LANGUAGES) -> dict[str, pml.NeuronSet]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: pml.NeuronSet(
            {site: torch.rand(LAYERS, width, generator=generator) < 0.4 for site, width in WIDTHS.items()}
        )
        for name in languages
    }


def write_run(folder: Path, command: str, *, seed: int = 0, languages: tuple[str, ...] = LANGUAGES) -> Path:
    """Writes the results of a command, with run.json but without the report, and returns their folder.

    command: its name; "reproduce_PAPER" for `reproduce` of another paper than plnd.
    """
    folder.mkdir(parents=True)
    globals()[f"_{command}"](folder, seed, languages)
    command, _, paper = command.partition("_")
    record = {
        "command": command,
        "arguments": {"positions": "last", "paper": paper},
        "started": "2026-11-30T12:00:00+00:00",
        "versions": {"pymultiling": "0.1.0", "torch": "2.13.0"},
        "card": {"title": "Results", "about": "What was measured.", "papers": {}},
        "command_line": {"out": ["--out", "a folder"]},
        "model": {"name": "tiny/<b>llama</b>", "revision": "abc", "type": "llama", "dtype": "float32"},
        "corpora": {name: {"file": f"{name}.txt", "sha256": "0123456789abcdef"} for name in languages},
        "texts": {name: {"texts": 5, "empty": 0, "cut": seed} for name in languages},
        "seconds": {"total": 1.5},
        "files": [],
    }
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    return folder


def _save(sets: dict[str, pml.NeuronSet], folder: Path) -> None:
    folder.mkdir()
    for name, neurons in sets.items():
        neurons.save(folder / f"{name}.safetensors")


def _detect(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    sets = random_sets(seed, languages)
    _save(sets, folder / "neurons")
    rows = [
        (name, site, layer, count, count // 2)
        for name, neurons in sets.items()
        for site, counts in neurons.count("layer").items()
        for layer, count in enumerate(counts)
    ]
    columns = ["language", "site", "layer", "selected", "specific"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "report.csv", index=False)
    shared = pml.overlap(sets)
    shared.counts.to_csv(folder / "overlap.csv", index_label="language")
    shared.jaccard.to_csv(folder / "jaccard.csv", index_label="language")


def _ablate(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    names = [*languages, *(f"random {draw} as {name}" for name in languages for draw in (1, 2))]
    values = 20 + 10 * torch.rand(1 + len(names), len(languages), generator=torch.Generator().manual_seed(seed))
    write_ablation(pandas.DataFrame(values.numpy(), ["none", *names], list(languages)).astype(float), folder)


def _count(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    (folder / "counts").mkdir()
    generator = torch.Generator().manual_seed(seed)
    active = {name: torch.randint(100, (LAYERS, 200), generator=generator) for name in languages}
    for name, counts in active.items():
        ActivationStatistics(active=counts, tokens=100).save(folder / "counts" / f"{name}.safetensors")
    proportions = {name: counts.double().mean(1).numpy() / 100 for name, counts in active.items()}
    pandas.DataFrame(proportions).to_csv(folder / "proportion.csv", index_label="layer")
    most = {name: counts.flatten().sort(descending=True).values[:6].numpy() for name, counts in active.items()}
    pandas.DataFrame(most).to_csv(folder / "most_active.csv", index_label="rank")


def _classify(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    _save(random_sets(seed, languages), folder / "neurons")
    (folder / "by_layer.csv").write_text("layer,specific,related,general\n0,3,1,0\n1,2,2,0\n2,5,1,1\n")
    (folder / "histogram.csv").write_text("languages,neurons\n0,1\n1,10\n2,4\n3,1\n")
    rows = [f"{layer},{kind},3,{4 + seed},1" for layer in range(3) for kind in ("specific", "related", "general")]
    (folder / "change_layers.csv").write_text("\n".join(["layer,kind,before,after,change", *rows]) + "\n")
    (folder / "change_histogram.csv").write_text("languages,before,after,change\n0,1,2,1\n1,10,9,-1\n")


def _lens(folder: Path, _: int, languages: tuple[str, ...]) -> None:
    decoded = [f"l{number}" for number in range(12)]
    rows = [
        (texts, layer, name, 0.05 + 0.01 * number if name != "other" else 0.14)
        for texts in languages
        for layer in range(LAYERS + 1)
        for number, name in enumerate([*decoded[:8], "other"])
    ]
    pandas.DataFrame(rows, columns=["texts", "layer", "language", "share"]).to_csv(folder / "lens.csv", index=False)


def _ilo(folder: Path, _: int, languages: tuple[str, ...]) -> None:
    rows = [(layer, name, 0.2, 0.5, 0.1 * layer) for layer in range(LAYERS + 1) for name in languages]
    columns = ["layer", "language", "bridge", "reach", "ilo"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "ilo.csv", index=False)
    pairs = [(layer, languages[0], languages[1], 0.5) for layer in range(LAYERS + 1)]
    for file, column in (("retrieval", "accuracy"), ("cka", "cka")):
        table = pandas.DataFrame(pairs, columns=["layer", "source", "target", column])
        table.to_csv(folder / f"{file}.csv", index=False)


def _pmi(folder: Path, *_: object) -> None:
    text = "prompt,languages,tokens,proportion,top_share,bleu\ndirect,1,20,0.4,0.1,30\nPMI-1,2,40,0.3,0.2,33\n"
    (folder / "table.csv").write_text(text)
    (folder / "by_layer.csv").write_text(
        "prompt,layer,proportion\ndirect,0,0.4\ndirect,1,0.3\nPMI-1,0,0.3\nPMI-1,1,0.2\n"
    )


def _mwork(folder: Path, *_: object) -> None:
    columns = "task,metric,understanding,attention,ffn,generation,neurons,count,english,others,d_english,d_others"
    rows = [
        "mgsm,accuracy,True,True,True,True,none,0,0.5,0.4,0,0,0,",
        "mgsm,accuracy,False,True,True,True,own,9,0.5,0.1,0,-0.3,0.3,",
        "mgsm,accuracy,False,True,True,True,random anywhere,9,0.5,0.4,0,0,0,0.1",
    ]
    (folder / "mwork.csv").write_text("\n".join([f"{columns},delta,delta_std", *rows]) + "\n")
    (folder / "search.csv").write_text(
        "part,layers,english,other,d_english,d_other,delta\nunderstanding,1,1,1,0,-0.1,0.1\n"
    )


def _reproduce(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    for part in (_detect, _ablate, _mwork):
        part(folder, seed, languages)
    mwork = pandas.read_csv(folder / "mwork.csv")
    mwork.assign(delta_low=mwork["delta"] - 0.1, delta_high=mwork["delta"] + 0.1, items=5).to_csv(
        folder / "mwork.csv", index=False
    )
    rows = [("change", row, name, 0.3, 0.2, 0.4, 5) for name in languages for row in ("own", "random")]
    columns = ["table", "row", "language", "value", "low", "high", "items"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "intervals.csv", index=False)
    rows = [
        ("mgsm", "number", name, kind, 0.3, 0.2, 0.4, 5) for name in languages for kind in ("none", "random", "own")
    ]
    columns = ["task", "metric", "language", "neurons", "score", "low", "high", "items"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "table1.csv", index=False)
    rows = [("mgsm", name, 5, 250) for name in languages]
    pandas.DataFrame(rows, columns=["measured", "language", "items", "of"]).to_csv(folder / "samples.csv", index=False)


def _reproduce_ternary(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    for part in (_classify, _count, _ablate):
        part(folder, seed, languages)
    rows = [("change", "all related neurons off", name, 0.3, 0.2, 0.4, 5) for name in languages]
    columns = ["table", "row", "language", "value", "low", "high", "items"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "intervals.csv", index=False)
    rows = [("MGSM", "number", name, kind, 0.3, 0.2, 0.4, 5) for name in languages for kind in ("none", "all related")]
    columns = ["task", "metric", "language", "neurons", "score", "low", "high", "items"]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "kinds.csv", index=False)
    rows = [("counting", name, 5, 250) for name in languages]
    pandas.DataFrame(rows, columns=["measured", "language", "items", "of"]).to_csv(folder / "samples.csv", index=False)


def _reproduce_pmi(folder: Path, seed: int, languages: tuple[str, ...]) -> None:
    _pmi(folder, seed, languages)
    columns = ["measure", "prompt", "value", "low", "high", "items"]
    for file, measure in (("answers", "BLEU"), ("activity", "active neurons")):
        rows = [(measure, prompt, 0.3, 0.2, 0.4, 5) for prompt in ("direct", "PMI-1")]
        pandas.DataFrame(rows, columns=columns).to_csv(folder / f"{file}.csv", index=False)
    rows = [("PMI-1", layer, 0.3, 0.2) for layer in range(LAYERS)]
    table = pandas.DataFrame(rows, columns=["prompt", "layer", "inhibited", "new"])
    table.to_csv(folder / "inhibition.csv", index=False)
    rows = [("answers", name, 5, 250) for name in languages]
    pandas.DataFrame(rows, columns=["measured", "language", "items", "of"]).to_csv(folder / "samples.csv", index=False)


def _tune(folder: Path, *_: object) -> None:
    (folder / "log.csv").write_text("step,loss,rate\n1,3.5,0.0001\n2,3.2,0.00005\n")
    (folder / "perplexity.csv").write_text("language,before,after,change\nfr,20,18,-0.1\nde,30,29,-0.03\n")
