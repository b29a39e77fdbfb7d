import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from tiny import tiny_model
from tiny_text import save_model, texts, tiny_tokenizer, write_text
from transformers import AutoModelForCausalLM

import pymultiling as pml
from pymultiling.cli import main

QUICK = ["--max-length", "16", "--batch-tokens", "64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpora(tmp_path) -> dict[str, Path]:
    return {name: write_text(tmp_path / f"{name}.txt", texts(name)) for name in ("fr", "de")}


def run(*arguments) -> int:
    """Exit status of the command line."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def detect(model, corpora, out, *more) -> int:
    given = [argument for name, path in corpora.items() for argument in ("--corpus", f"{name}={path}")]
    return run("detect", "--model", model, *given, "--out", out, *QUICK, *more)


def assert_one_sentence(capsys, *words) -> str:
    """What was printed on stderr last is one line, without a traceback, with these words."""
    text = capsys.readouterr().err
    last = text.strip().splitlines()[-1]
    assert last.startswith("pymultiling") and "Traceback" not in text and "should not happen" not in last, text
    for word in words:
        assert str(word) in last, last
    return last


def assert_nothing_written(folder: Path, *but) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(but)


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"])
def test_detect(model, tmp_path, capsys, ending):
    corpora = {name: write_text(tmp_path / f"{name}.{ending}", texts(name)) for name in ("fr", "de")}
    out = tmp_path / "new" / "out"
    assert detect(model, corpora, out, "--ffn", "0.2", "--attention", "3", "--share", "0.5", "--sites", "q,ffn") == 0
    printed = capsys.readouterr()
    assert "fr: 6 documents, 49 tokens; texts 6" in printed.out
    assert "fr: measuring: 6 documents" in printed.err and "Loading" not in printed.err
    assert {path.name for path in out.iterdir()} == {
        "neurons", "specific", "statistics", "neurons.png", "specific.png", "report.csv", "run.json",
        "overlap.csv", "jaccard.csv", "overlap.png",
    }  # fmt: skip
    report = pandas.read_csv(out / "report.csv")
    assert list(report.columns) == ["language", "site", "layer", "selected", "specific"]
    for language in corpora:
        neurons = pml.NeuronSet.load(out / "neurons" / f"{language}.safetensors")
        specific = pml.NeuronSet.load(out / "specific" / f"{language}.safetensors")
        statistics = pml.NeuronStatistics.load(out / "statistics" / f"{language}.safetensors")
        assert list(neurons.sites) == ["ffn", "q"]
        assert neurons == pml.TopK(0.2, 3, 0.5).select(statistics)
        assert len(specific - neurons) == 0
        of_language = report[report.language == language]
        assert (of_language.selected.sum(), of_language.specific.sum()) == (len(neurons), len(specific))
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == {"name": str(model), "revision": None, "type": "llama", "dtype": "float32"}
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["corpora"]["fr"]["sha256"]) == 64
    assert record["arguments"]["share"] == 0.5 and record["device"] == "cpu" and record["seed"] is None
    assert {"load", "detect", "write", "total"} == set(record["seconds"])
    assert_nothing_written(out.parent, "out")


def test_detect_by_threshold(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--threshold", "0.001", "--rope", "post", "--pack", "8") == 0
    neurons = pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors")
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert neurons == pml.Threshold(0.001).select(statistics)


def test_detect_with_estimated_q_and_k(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--qk", "fast") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["qk"] == "fast"
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert "q and k estimated" in statistics.rule


def test_what_became_of_texts_is_reported(model, tmp_path, corpora, capsys):
    with open(corpora["fr"], "ab") as file:
        file.write(b"\n   \nw3\nw4 \xff w5\n" + b"w6 " * 100)
    assert detect(model, corpora, tmp_path / "out", "--max-length", "999") == 0
    assert "texts 11, empty 2, replaced 1, cut 1" in capsys.readouterr().out
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert statistics.documents == 9
    assert statistics.tokens == 49 + 2 + 4 + 64  # cut to the model's 64 positions


def test_ablate(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    one = tmp_path / "found" / "neurons" / "fr.safetensors"
    arguments = ["--neurons", tmp_path / "found" / "specific", "--neurons", f"all={one}", "--random", 3]
    given = [argument for name, path in corpora.items() for argument in ("--texts", f"{name}={path}")]
    assert run("ablate", "--model", model, *arguments, *given, "--out", tmp_path / "out", *QUICK) == 0
    perplexities = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="off")
    change = pandas.read_csv(tmp_path / "out" / "log_change.csv", index_col="off")
    names = ["de", "fr", "all", "random as de", "random as fr", "random as all"]
    assert list(perplexities.index) == ["none", *names] and list(change.index) == names
    assert list(perplexities.columns) == ["fr", "de"]
    ratio = torch.tensor(perplexities.loc["all", "fr"] / perplexities.loc["none", "fr"])
    assert change.loc["all", "fr"] == pytest.approx(ratio.log().item())
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 3
    printed = capsys.readouterr().out
    assert "perplexity" in printed and "change of log-perplexity" in printed


@pytest.mark.parametrize("change", [("--scale", "2"), ("--mean", "fr")])
def test_ablate_by_scale_and_by_mean(model, tmp_path, corpora, change):
    assert detect(model, corpora, tmp_path / "found") == 0
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    change = [str(corpora.get(one, one)) for one in change]
    arguments = ["--neurons", f"all={tmp_path / 'found' / 'neurons' / 'fr.safetensors'}", *change]
    out = tmp_path / "out"
    assert run("ablate", "--model", model, *arguments, "--texts", f"de={corpora['de']}", "--out", out, *QUICK) == 0
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    means = pml.mean_activations(loaded, tokenizer, corpora["fr"], max_length=16)
    options = {"scale": 2.0} if change[0] == "--scale" else {"mean": means}
    with pml.deactivate(loaded, neurons, **options):
        truth = pml.perplexity(loaded, tokenizer, corpora["de"], max_length=16)
    assert pandas.read_csv(out / "perplexity.csv", index_col="off").loc["all", "de"] == pytest.approx(truth, rel=1e-5)


def test_an_empty_set_is_told_of(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.zeros(2, 37, dtype=torch.bool)}).save(tmp_path / "nothing.safetensors")
    arguments = ["--neurons", f"nothing={tmp_path / 'nothing.safetensors'}", "--texts", f"de={corpora['de']}"]
    assert run("ablate", "--model", model, *arguments, "--out", tmp_path / "out", *QUICK) == 0
    assert "pymultiling ablate: set 'nothing' has no neurons" in capsys.readouterr().err


def mwork(model, tmp_path, *more) -> int:
    return run("mwork", "--model", model, "--out", tmp_path / "out", "--batch-tokens", "256", "--english", "de", *more)


def test_mwork(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found", "--share", "0.1") == 0
    given = [argument for name, path in corpora.items() for argument in ("--text", f"{name}={path}")]
    sets = ["--neurons", tmp_path / "found" / "neurons", "--metric", "likelihood", "--limit", "4", "--seeds", "2"]
    assert mwork(model, tmp_path, *sets, *given, "--understanding", "1", "--generation", "1") == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    assert table["neurons"][0] == "none" and set(table["task"]) == {"continuation"}
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    task = pml.tasks.continuation({name: texts(name) for name in corpora}).judged_by("likelihood").only(limit=4)
    spans = {"understanding": range(1), "generation": range(1, 2)}
    truth = pml.mwork(loaded, tokenizer, {"fr": neurons}, task, english="de", seeds=(0, 1), **spans)
    assert table["delta"].tolist() == pytest.approx(truth["delta"].tolist(), abs=1e-5)
    printed = capsys.readouterr().out
    assert "Layers of understanding: 0 to 0; of generation: 1 to 1; of 2." in printed and "S-ATTN" in printed
    assert (tmp_path / "out" / "mwork.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["tasks"] == {"continuation": "likelihood"}

    assert mwork(model, tmp_path, *sets, *given, "--search", "fr") == 0
    assert pandas.read_csv(tmp_path / "out" / "search.csv")["part"].tolist() == ["understanding", "generation"]


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "--neurons is required"),
        (["--neurons", "x"], "no task is given"),
        (["--neurons", "x", "--text", "fr=a"], "without --search --understanding is required"),
        (["--neurons", "x", "--mgsm", "m.jsonl"], "with --mgsm --exemplars is required"),
        (["--neurons", "x", "--xquad", "m.jsonl"], "with --xquad --contexts is required"),
        (["--neurons", "x", "--xlsum", "fr=a", "--xlsum", "fr=b"], "more than once"),
        (["--neurons", "x", "--text", "fr=a", "--search", "fr", "--generation", "1"], "not allowed with --generation"),
        (["--demo"], "--demo: not allowed with --model"),
    ],
)
def test_mwork_without_what_it_needs(model, tmp_path, capsys, arguments, word):
    assert mwork(model, tmp_path, *arguments) == 2
    assert_one_sentence(capsys, word)


def test_mwork_on_what_cannot_be_measured(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.ones(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    pml.NeuronSet({"ffn": torch.ones(2, 36, dtype=torch.bool)}).save(tmp_path / "other.safetensors")
    given = [argument for name, path in corpora.items() for argument in ("--text", f"{name}={path}")]
    one, spans = ["--neurons", f"fr={tmp_path / 'fr.safetensors'}"], ["--understanding", "1", "--generation", "1"]
    for arguments, words in (
        ((*one, *given, "--understanding", "2", "--generation", "1"), ("first of the 2 layers",)),
        (("--neurons", f"fr={tmp_path / 'other.safetensors'}", *given, *spans), ("set of 'fr'", "another model")),
        ((*one, *given[:2], *spans), ("'de' in the task",)),
        ((*one, *given, *spans, "--metric", "bleu"), ("metric must be one of",)),
        ((*one, "--xcopa", f"de={tmp_path / 'x.jsonl'}", *spans), ("no such file",)),
    ):
        assert mwork(model, tmp_path, *arguments) == 1
        assert_one_sentence(capsys, *words)
        assert not (tmp_path / "out").exists()


def test_demo(tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "out", "--documents", 1, "--heldout", 1) == 0
    printed = capsys.readouterr().out
    assert "random as hi" in printed and "own/others" in printed and "the demo took" in printed
    table = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language")
    assert table.loc["mean", "own"] > table.loc["mean", ["others", "random"]].max()
    assert set(json.loads((tmp_path / "out" / "run.json").read_text())["corpora"]) == set(pml.embedded.LANGUAGES)


def test_a_former_run_is_replaced(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out") == 0
    assert detect(model, corpora, tmp_path / "out", "--sites", "ffn") == 0
    assert list(pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors").sites) == ["ffn"]
    assert_nothing_written(tmp_path, "out", "fr.txt", "de.txt")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device", "a.png"), RuntimeError("odd")]
)
def test_a_run_that_fails_late_changes_nothing(model, tmp_path, corpora, capsys, monkeypatch, error):
    assert detect(model, corpora, tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(figure, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("pymultiling.plots.save", fail)
    assert detect(model, corpora, tmp_path / "out") == 1
    words = {"KeyboardInterrupt": "interrupted", "OSError": "No space left", "RuntimeError": "--debug"}
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    assert words[name] in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("former", [True, False])
def test_other_files_are_left_alone(model, tmp_path, corpora, capsys, former):
    out = tmp_path / "out"
    if former:
        assert detect(model, corpora, out) == 0
    else:
        out.mkdir()
        (out / "run.json").write_text("[]")
    (out / "notes.md").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert detect(model, corpora, out) == 1
    assert_one_sentence(capsys, "holds other files", "--out")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_out_is_a_file(model, tmp_path, corpora, capsys):
    (tmp_path / "out").write_text("")
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "is a file", "--out")


BAD_CORPORA = {
    "empty": ("fr.txt", b"", "nothing was read"),
    "blank": ("fr.txt", b"\n \n", "has no documents"),
    "binary": ("fr.txt", b"\x7fELF\x00\x01\n", "binary"),
    "no gzip": ("fr.txt.gz", b"plain", "cannot be read"),
    "cut gzip": ("fr.txt.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b", "cannot be read"),
    "no json": ("fr.jsonl", b"w3 w4\n", "line 1 is not JSON"),
    "other json": ("fr.jsonl", b'{"content": "w3"}\n', "line 1"),
    "no parquet": ("fr.parquet", b"PAR1", "parquet"),
    "unknown ending": ("fr.docx", b"w3", ".jsonl"),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
def test_bad_corpora(model, tmp_path, corpora, capsys, case):
    name, content, word = BAD_CORPORA[case]
    (tmp_path / name).write_bytes(content)
    assert detect(model, {"de": corpora["de"], "fr": tmp_path / name}, tmp_path / "out") == 1
    assert_one_sentence(capsys, "fr", word)
    assert_nothing_written(tmp_path, *{"de.txt", "fr.txt", name})


def test_corpus_that_is_not_there(model, tmp_path, corpora, capsys):
    assert detect(model, {"fr": tmp_path / "absent.txt"}, tmp_path / "out") == 1
    assert_one_sentence(capsys, tmp_path / "absent.txt", "no such file")
    assert_nothing_written(tmp_path, "fr.txt", "de.txt")


def test_a_length_that_leaves_nothing_to_predict(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    write_text(tmp_path / "short.txt", ["w3"])
    arguments = ["--neurons", tmp_path / "found" / "specific", "--texts", f"fr={tmp_path / 'short.txt'}"]
    out = tmp_path / "out"
    assert run("ablate", "--model", model, *arguments, "--out", out, "--max-length", "1") == 1
    assert_one_sentence(capsys, "at least 2 tokens")
    assert not out.exists()


def test_nan_weight(tmp_path, corpora, capsys):
    broken = tiny_model("llama")
    broken.model.layers[1].mlp.up_proj.weight.data[5, 3] = torch.nan
    folder = save_model(tmp_path / "model", broken)
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "fr", "site ffn", "layer 1")
    assert_nothing_written(tmp_path, "fr.txt", "de.txt", "model")


def test_models_that_cannot_be_loaded(model, tmp_path, corpora, capsys):
    out = tmp_path / "out"
    assert detect(tmp_path / "absent", corpora, out) == 1
    assert_one_sentence(capsys, tmp_path / "absent", "no such folder")
    (tmp_path / "blank").mkdir()
    assert detect(tmp_path / "blank", corpora, out) == 1
    assert_one_sentence(capsys, "config.json")
    damaged = save_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:1000])
    assert detect(damaged, corpora, out) == 1
    assert_one_sentence(capsys, damaged, "cannot be loaded")
    assert not out.exists()


def test_missing_weights_are_not_made_up(tmp_path, corpora, capsys):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "lacks 1 weights", "layers.0.mlp.up_proj")


def test_unknown_family(tmp_path, corpora, capsys):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = save_model(tmp_path / "model", GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=8, n_layer=1, n_head=2)))
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "gpt2", "looked for one of llama")


def test_bad_sets(model, tmp_path, corpora, capsys):
    other = tmp_path / "other.safetensors"
    pml.NeuronSet({"ffn": torch.zeros(3, 5, dtype=torch.bool)}).save(other)
    out, given = tmp_path / "out", ["--texts", f"fr={corpora['fr']}", "--model", model, "--out", tmp_path / "out"]
    for sets, words in (
        ([f"x={other}"], ("set 'x'", "another model")),
        ([f"x={tmp_path / 'absent.safetensors'}"], ("no such file",)),
        ([f"x={corpora['fr']}"], ("is not a set of neurons",)),
        ([tmp_path / "model"], ("NAME=FILE",)),
        ([f"x={other}", f"x={other}"], ("'x' is taken",)),
        ([f"none={other}"], ("'none' is taken",)),
    ):
        arguments = [argument for one in sets for argument in ("--neurons", one)]
        assert run("ablate", *arguments, *given) == 1
        assert_one_sentence(capsys, *words)
        assert not out.exists()


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "COMMAND"),
        (["count-sheep"], "count-sheep"),
        (["detect", "--model", "m", "--out", "o"], "--corpus"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr"], "NAME=FILE"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "../fr=a.txt"], "name a file"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--corpus", "fr=b.txt"], "more than once"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--sites", "ffn,z"], "unknown site 'z'"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--pack", "0"], "at least 1"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--ffn", "1.5"], "ffn must be"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--ffn", "few"], "neither a fraction"),
        (["detect", "--model", "m", "--out", "o", "--corpus", "fr=a.txt", "--ffn", "1", "--threshold", "1"], "--ffn"),
        (["demo", "--documents", "many"], "'many'"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert len(assert_one_sentence(capsys, word).splitlines()) == 1
    assert_nothing_written(tmp_path)


def test_no_gpu(model, tmp_path, corpora, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert detect(model, corpora, tmp_path / "out", "--device", "cuda") == 1
    assert_one_sentence(capsys, "--device cpu")


def test_debug_shows_the_traceback(tmp_path, corpora, capsys):
    assert detect(tmp_path / "absent", corpora, tmp_path / "out", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version_load_nothing_heavy():
    """In a fresh interpreter, as does `import pymultiling`."""
    program = """
import sys
import pymultiling
from pymultiling.cli import main
for arguments in (["--help"], ["--version"], ["detect", "--help"], ["demo", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
print([name for name in ("torch", "transformers", "pandas", "numpy", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"pymultiling {pml.__version__}" in done.stdout


def test_as_a_module():
    command = [sys.executable, "-m", "pymultiling", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pymultiling {pml.__version__}"
