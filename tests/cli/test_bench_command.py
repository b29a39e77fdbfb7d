"""The command `bench`: its tables, its file, and what it says of files that are none."""

import json

from pymultiling.methods.benchmark import PLAIN, Benchmark
from pymultiling.ops.registry import OPERATORS
from tests.support.command_line import assert_error_line, run
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import save_model


def test_all_times_are_printed_written_and_compared(tmp_path, capsys):
    model = save_model(tmp_path / "model", tiny_model("gemma2"))
    options = ("bench", "--model", model, "--length", 12, "--rounds", 2)
    assert run(*options, "--out", tmp_path / "bench.json") == 0
    printed = capsys.readouterr().out
    written = Benchmark.model_validate_json((tmp_path / "bench.json").read_bytes())
    assert written.model == str(model) and written.dtype == "float32" and written.length == 12
    assert written.forwards[0].name == PLAIN and written.forwards[0].times_plain == 1
    assert all(row.milliseconds > 0 and row.name in printed for row in written.forwards)
    measured = {row.name: row for row in written.operators}
    assert {"active_count", "mask_neurons_", "normed_energy", "qk_estimate", "qk_importance"} <= set(measured)
    assert set(measured) <= set(OPERATORS) and measured["qk_importance"].shape == (1, 4, 12, 8)
    for row in written.operators:
        assert row.name in printed and "torch" in row.milliseconds and min(row.milliseconds.values()) > 0

    assert run(*options, "--compare", tmp_path / "bench.json") == 0
    assert "earlier torch" in capsys.readouterr().out


def test_a_file_of_something_else_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    file = tmp_path / "bench.json"
    for text, fault in (("{", "it is not JSON"), (json.dumps({"model": "x"}), "it lacks 'environment'")):
        file.write_text(text)
        assert run("bench", "--model", tmp_path / "none", "--compare", file) == 1
        assert_error_line(capsys, f"{file} is not the file of an earlier `pymultiling bench`", fault)
    assert run("bench", "--compare", tmp_path / "missing.json") == 1
    assert_error_line(capsys, "No such file")
