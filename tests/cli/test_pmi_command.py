import gzip
import json

import pandas
import pytest
import torch
from transformers import LlamaForCausalLM, M2M100Config, M2M100ForConditionalGeneration

import pymultiling as pml
from pymultiling.methods import pmi
from pymultiling.models.loading import load_translator
from tests.support.chat_server import REFUSED, ChatServer
from tests.support.command_line import assert_error_line, assert_folder_holds, run
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import WORDS, save_model, tiny_tokenizer

LANGUAGES = ("de", "fr", "es", "en")


@pytest.fixture(scope="module")
def long_context_model(tmp_path_factory):
    """A model with 512 positions, for prompts with examples."""
    return save_model(
        tmp_path_factory.mktemp("long_context_model"),
        tiny_model("llama", pad_token_id=None, max_position_embeddings=512),
    )


@pytest.fixture
def parallel(tmp_path):
    path = tmp_path / "parallel.tsv.gz"
    records = [
        [str(number), *(" ".join(WORDS[number + shift : number + shift + 3]) for shift in range(4))]
        for number in range(6)
    ]
    path.write_bytes(gzip.compress("\n".join("\t".join(record) for record in [("id", *LANGUAGES), *records]).encode()))
    return path


def run_pmi(model, parallel, out, *options) -> int:
    """Runs the command with the source German and returns its exit status."""
    return run("pmi", "--model", model, "--inputs", parallel, "--source", "de", "--out", out, *options)


def test_writes_the_tables_and_answers_that_compare_gives(long_context_model, parallel, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run_pmi(long_context_model, parallel, out, "--target", "en", "--pivot", "es", "--shots", 1, "--limit", 4) == 0
    )
    assert (
        "4 items; active: fraction of the FFN neurons that are active at the prompts' last token"
        in capsys.readouterr().out
    )
    assert {path.name for path in out.iterdir()} == {
        "table.csv", "by_layer.csv", "answers.jsonl", "counts", "pmi.png", "run.json", "report.html",
    }  # fmt: skip
    task = pmi.translation(parallel, target="en")
    examples = [(task.items[0], task.items[0].references[0])]
    model, tokenizer = tiny_model("llama", max_position_embeddings=512), tiny_tokenizer()
    task = pmi.ParallelTask("translation", "translation", task.items[1:5], "bleu", stop=("\n",))
    options = {"target": "en", "pivot": "es", "examples": examples, "source": "de", "others": ["fr", "es"]}
    truth = pmi.compare(model, tokenizer, task, **options)
    table = pandas.read_csv(out / "table.csv")
    pandas.testing.assert_frame_equal(table, truth.table)
    records = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [record["answers"]["PMI-2"] for record in records] == truth.answers["PMI-2"]
    assert [record["item"] for record in records] == [0, 1, 2, 3]
    assert records[0]["source"] == task.items[0].texts["de"]
    assert records[0]["references"] == list(task.items[0].references)
    saved = pml.ActivationStatistics.load(out / "counts" / "PMI-1.safetensors")
    assert (saved.active == truth.statistics["PMI-1"].active).all()
    record = json.loads((out / "run.json").read_text())
    assert record["others"] == ["fr", "es"] and record["scores"]["bleu"].startswith("nrefs:1")


def test_math_and_nli_have_an_accuracy_for_each_prompt(long_context_model, tmp_path, capsys):
    texts = {"de": "w3 w4", "fr": "w5 w6"}
    math = [{"lang": lang, "id": n, "question": text, "answer": "3"} for n in range(3) for lang, text in texts.items()]
    nli = [
        {"lang": lang, "id": n, "premise": text, "hypothesis": text, "label": "neutral"}
        for n in range(3)
        for lang, text in texts.items()
    ]
    for task, records, options in (("math", math, ["--target", "de"]), ("nli", nli, ["--template", "nli_premises"])):
        path = tmp_path / f"{task}.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
        assert run_pmi(long_context_model, path, tmp_path / f"{task} out", "--task", task, *options) == 0
        table = pandas.read_csv(tmp_path / f"{task} out" / "table.csv")
        assert list(table["prompt"]) == ["direct", "PMI-1"] and set(table["accuracy"]) <= {0, 100 / 3, 200 / 3, 100}


def test_a_language_of_an_unknown_code_needs_a_name(long_context_model, tmp_path, capsys):
    path = tmp_path / "some.tsv"
    records = [("de", "qq", "en"), ("w3 w4", "w5 w6", "w7"), ("w8", "w9", "w10")]
    path.write_text("\n".join("\t".join(record) for record in records))
    assert run_pmi(long_context_model, path, tmp_path / "out", "--target", "en", "--count-only") == 1
    assert_error_line(capsys, "'qq'")
    assert (
        run_pmi(long_context_model, path, tmp_path / "out", "--target", "en", "--count-only", "--name", "qq=Quenya")
        == 0
    )


def test_count_only_writes_no_answers(long_context_model, parallel, tmp_path):
    options = ["--task", "free", "--instruction", "Continue.", "--target", "en", "--others", "es", "--count-only"]
    assert run_pmi(long_context_model, parallel, tmp_path / "out", *options, "--positions", "all") == 0
    assert list(pandas.read_csv(tmp_path / "out" / "table.csv")["prompt"]) == ["direct", "PMI-1"]
    assert not (tmp_path / "out" / "answers.jsonl").exists()


@pytest.mark.parametrize(
    "make, others", [("translation", ["fr", "es"]), ("back-translation", ["de~fr"]), ("paraphrase", ["de~1", "de~2"])]
)
def test_requests_each_input_once_and_keeps_it_in_the_cache(long_context_model, parallel, tmp_path, make, others):
    if make == "paraphrase":
        into = ["--number", 2]
    else:
        into = ["--others", ",".join(name.removeprefix("de~") for name in others)]
    with ChatServer() as server:
        options = ["--make", make, "--by", "m", "--base-url", server.url, "--cache", tmp_path / "cache"]
        options += [*into, "--target", "en", "--count-only", "--limit", 3, "--shots", 1]
        assert run_pmi(long_context_model, parallel, tmp_path / "out", *options) == 0
        assert sum(server.delivered.values()) == 4 * 2  # two requests for each of the three items and the example
        assert run_pmi(long_context_model, parallel, tmp_path / "again", *options) == 0
        assert sum(server.delivered.values()) == 4 * 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["others"] == others and record["items"] == 3
    tables = [pandas.read_csv(tmp_path / name / "table.csv") for name in ("out", "again")]
    assert len(tables[0]) == 1 + len(others) and tables[0].equals(tables[1])


@pytest.mark.parametrize(
    "make, others, pivot, languages",
    [
        ("translation", "fr,it", "it", ("de", "es", "en")),
        ("back-translation", "fr", "fr", ("de", "fr", "en")),
        ("back-translation", "fr", "de~fr", ("de", "en")),
        ("paraphrase", None, "de~1", ("de", "en")),
    ],
)
def test_a_pivot_may_be_made_or_be_in_the_file(long_context_model, tmp_path, make, others, pivot, languages):
    path = tmp_path / "some.tsv"
    records = [languages, *(WORDS[number : number + len(languages)] for number in range(3))]
    path.write_text("\n".join("\t".join(record) for record in records))
    with ChatServer() as server:
        options = ["--make", make, "--by", "m", "--base-url", server.url]
        options += ["--target", "en", "--count-only", "--pivot", pivot]
        if others is not None:
            options += ["--others", others]
        assert run_pmi(long_context_model, path, tmp_path / "out", *options) == 0
    table = pandas.read_csv(tmp_path / "out" / "table.csv", index_col="prompt")
    assert table.loc["pivot", "languages"] == 1


def test_the_message_says_that_a_server_refuses(long_context_model, parallel, tmp_path, capsys):
    with ChatServer(lambda prompt, before: REFUSED) as server:
        options = ["--make", "translation", "--others", "fr", "--by", "m", "--base-url", server.url, "--target", "en"]
        assert run_pmi(long_context_model, parallel, tmp_path / "out", *options) == 1
    assert_error_line(capsys, "401", "does not answer")
    assert_folder_holds(tmp_path, parallel.name)


def test_load_translator_returns_encoder_decoders_and_decoders(long_context_model, tmp_path, capsys):
    sizes = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    sizes |= dict(encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=70)
    M2M100ForConditionalGeneration(M2M100Config(**sizes)).save_pretrained(tmp_path / "m2m")
    tiny_tokenizer().save_pretrained(tmp_path / "m2m")
    cpu = torch.device("cpu")
    assert isinstance(load_translator(str(tmp_path / "m2m"), cpu)[0], M2M100ForConditionalGeneration)
    assert isinstance(load_translator(str(long_context_model), cpu)[0], LlamaForCausalLM)
    with pytest.raises(pml.CheckpointError, match="no such folder"):
        load_translator(str(tmp_path / "none"), cpu)


@pytest.mark.parametrize(
    "options, text",
    [
        ([], "for --task translation --target is required"),
        (["--target", "en", "--task", "free"], "for --task free --instruction is required"),
        (["--target", "en", "--by", "x"], "--by: not allowed without --make"),
        (["--target", "en", "--make", "paraphrase"], "with --make --by is required"),
        (["--target", "en", "--make", "translation", "--by", "x"], "with --make translation --others is required"),
        (["--target", "en", "--count-only", "--positions", "response"], "not allowed with --positions response"),
        (["--target", "en", "--others", "fr,fr"], "not a list of different codes"),
        (["--target", "en", "--others", "fr,de"], "'de' is the source or the target"),
        (
            ["--target", "en", "--make", "translation", "--by", "x", "--others", "en"],
            "'en' is the source or the target",
        ),
        (
            ["--target", "en", "--make", "paraphrase", "--by", "x", "--others", "fr"],
            "not allowed with --make paraphrase",
        ),
        (["--target", "en", "--name", "qq"], "'qq' does not have the form CODE=NAME, such as qq=Quenya"),
        (["--target", "en", "--number", "2"], "not allowed without --make paraphrase"),
    ],
)
def test_rejects_wrong_arguments(parallel, tmp_path, capsys, options, text):
    assert run_pmi("nowhere", parallel, tmp_path / "out", *options) == 2
    assert_error_line(capsys, text)


def test_reads_a_file_for_each_language(long_context_model, tmp_path, capsys):
    """The files are those of MSVAMP: without a language and an id."""
    inputs = []
    for language, text in (("de", "eins zwei"), ("fr", "un deux")):
        path = tmp_path / f"test_{language}.json"
        path.write_text(json.dumps({"m_query": text, "response": "3.0"}) + "\n", "utf-8")
        inputs += ["--inputs", f"{language}={path}"]
    options = "--task", "math", "--source", "de", "--out", tmp_path / "out", "--count-only"
    assert run("pmi", "--model", long_context_model, *inputs, *options) == 0
    assert list(pandas.read_csv(tmp_path / "out" / "table.csv")["prompt"]) == ["direct", "PMI-1"]
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert set(record["corpora"]) == {"de", "fr"} and record["others"] == ["fr"]
    capsys.readouterr()
    for more in (["--inputs", "all.jsonl"], ["--inputs", "de=other.json"]):
        assert run("pmi", "--model", long_context_model, *inputs, *more, *options) == 2
        assert_error_line(capsys, "--inputs", "is one too many")


def test_rejects_inputs_and_models_that_cannot_be_compared(model, long_context_model, parallel, tmp_path, capsys):
    before = [path.name for path in tmp_path.iterdir()]
    assert run_pmi(long_context_model, parallel, tmp_path / "out", "--target", "it") == 1
    assert_error_line(capsys, "'it'")
    assert run_pmi(model, parallel, tmp_path / "out", "--target", "en") == 1
    assert_error_line(capsys, "no items to compare", "64 positions")
    assert run_pmi(long_context_model, parallel, tmp_path / "out", "--target", "en", "--others", "zh") == 1
    assert_error_line(capsys, "'zh'")
    assert run_pmi(long_context_model, tmp_path / "none.tsv", tmp_path / "out", "--target", "en") == 1
    assert_error_line(capsys, "none.tsv: no such file")
    assert run_pmi(long_context_model, parallel, tmp_path / "out", "--target", "en", "--shots", 6) == 1
    assert_error_line(capsys, "no items to compare: give more, or fewer examples")
    assert_folder_holds(tmp_path, *before)
