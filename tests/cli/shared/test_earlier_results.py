"""Results of earlier runs, given as files, folders and folders of whole runs."""

import pytest
import torch

import pymultiling as pml
from pymultiling.cli.shared.earlier_results import read_set, read_sets
from pymultiling.cli.shared.loading import model_folder


def neuron_set(neuron: int) -> pml.NeuronSet:
    return pml.NeuronSet({"ffn": torch.arange(5).expand(2, 5) == neuron})


@pytest.fixture
def found(tmp_path):
    """What `detect` writes: sets of two languages in two folders."""
    for number, folder in enumerate(("neurons", "specific")):
        (tmp_path / "found" / folder).mkdir(parents=True)
        for language, neuron in (("fr", 0), ("de", 1)):
            neuron_set(neuron + 2 * number).save(tmp_path / "found" / folder / f"{language}.safetensors")
    return tmp_path / "found"


def test_one_set_is_a_file_or_a_language_of_a_folder(found):
    assert read_set(str(found / "neurons" / "fr.safetensors")) == neuron_set(0)
    assert read_set(f"fr={found / 'neurons'}") == neuron_set(0)
    assert read_set(f"fr={found}") == neuron_set(2)  # of a whole run specific is read
    assert read_set(f"German={found}") == neuron_set(3)
    (found / "specific" / "de.safetensors").unlink()
    assert read_set(str(found / "specific")) == neuron_set(2)


def test_one_set_of_several_must_be_named(found):
    with pytest.raises(pml.CheckpointError, match=r"has the sets of de, fr, and one is needed: give it as de=.*found$"):
        read_set(str(found))
    with pytest.raises(pml.CorpusError, match="has no language 'it': its languages are de, fr"):
        read_set(f"it={found}")
    with pytest.raises(pml.CheckpointError, match="is neither NAME=FILE nor a folder with"):
        read_set(str(found.parent))
    with pytest.raises(pml.CheckpointError, match="no such file"):
        read_set(str(found / "absent.safetensors"))


def test_several_sets_may_be_named_in_their_folders(found):
    assert read_sets([f"fr={found}", f"all={found / 'neurons' / 'de.safetensors'}"]) == {
        "fr": neuron_set(2),
        "all": neuron_set(1),
    }


def test_the_model_of_a_run_is_in_its_folder(tmp_path):
    assert model_folder(str(tmp_path)) == str(tmp_path) and model_folder("owner/name") == "owner/name"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    assert model_folder(str(tmp_path)) == str(tmp_path / "model")
    (tmp_path / "config.json").touch()
    assert model_folder(str(tmp_path)) == str(tmp_path)
