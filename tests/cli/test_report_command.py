"""`report`, and the report that every folder of results has."""

import re

from tests.support.command_line import assert_error_line, detect, run


def test_writes_one_page_of_two_runs(model, tmp_path, corpora, capsys):
    for name in ("one", "two"):
        assert detect(model, corpora, tmp_path / name, "--share", "0.5") == 0
        assert f"{tmp_path / name / 'report.html'} shows the results in a browser" in capsys.readouterr().err
        own = (tmp_path / name / "report.html").read_text("utf-8")
        assert f"<h1>pymultiling: {name}</h1>" in own and f"<td>{tmp_path / name}</td>" in own
        assert ".partial" not in own
    out = tmp_path / "both.html"
    assert run("report", tmp_path / "one", tmp_path / "two", "--out", out) == 0
    assert capsys.readouterr().out == f"open {out} in a browser\n"
    html = out.read_text("utf-8")
    headings = re.findall("<h2>([^<$]*)</h2>", html)
    assert headings == ["What was run", "Neurons of languages", "Overlap between languages"]
    assert html.count("0 rows of the table differ between the two runs.") == 3


def test_folders_of_one_name_are_told_apart(model, tmp_path, corpora):
    for place in ("a", "b"):
        assert detect(model, corpora, tmp_path / place / "found", "--share", "0.5") == 0
    out = tmp_path / "both.html"
    assert run("report", tmp_path / "a" / "found", tmp_path / "b" / "found", "--out", out) == 0
    assert f'<th scope="col">{tmp_path / "b" / "found"}</th>' in out.read_text("utf-8")


def test_quiet_does_not_name_the_report(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "out", "--share", "0.5", "--quiet") == 0
    assert "report.html" not in capsys.readouterr().err and (tmp_path / "out" / "report.html").is_file()


def test_rejects_folders_without_results_and_files_that_are_no_pages(tmp_path, capsys):
    assert run("report", tmp_path, "--out", tmp_path / "report.html") == 1
    assert_error_line(capsys, tmp_path, "has no run.json")
    assert run("report", tmp_path, "--out", tmp_path) == 2
    assert_error_line(capsys, "is not a file that ends in .html")
    assert list(tmp_path.iterdir()) == []
