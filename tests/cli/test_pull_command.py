from pymultiling.neurons.set_files import load_sets
from tests.support.command_line import assert_error_line, assert_folder_holds, run
from tests.support.published_runs import file_contents, write_detect_results

NAME = "me/language-neurons"


def test_replaces_pulled_files_and_leaves_files_of_the_user(hub, tmp_path, capsys):
    out, pulled = write_detect_results(tmp_path / "out", tmp_path), tmp_path / "pulled"
    assert run("push", out, NAME) == 0 and run("pull", NAME, "--out", pulled) == 0
    (out / "neurons" / "fr.safetensors").unlink()
    assert run("push", out, NAME) == 0 and run("pull", NAME, "--out", pulled) == 0
    assert list(load_sets(pulled / "neurons")) == ["de"]
    (pulled / "notes.md").write_text("mine")
    before = file_contents(pulled)
    assert run("pull", NAME, "--out", pulled) == 1
    assert_error_line(capsys, "holds other files, such as notes.md", "--out")
    assert file_contents(pulled) == before
    assert_folder_holds(tmp_path, "out", "pulled", "cache")


def test_reports_errors_in_one_line(hub, tmp_path, capsys, monkeypatch):
    assert run("pull", NAME, "--out", tmp_path / "new") == 1
    assert_error_line(capsys, NAME, "not on the Hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("pull", NAME, "--out", tmp_path / "new") == 1
    assert_error_line(capsys, NAME, "HF_HUB_OFFLINE", "unset it")
    assert_folder_holds(tmp_path)


def test_rejects_a_missing_result_folder(capsys):
    assert run("pull", NAME) == 2
    assert_error_line(capsys, "--out")
