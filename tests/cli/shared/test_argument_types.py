from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from pymultiling.cli.shared.argument_types import code_and_name, name_and_path


def test_a_file_may_begin_with_the_home_folder_and_a_language_name_is_taken_as_it_is():
    assert name_and_path("fr=~/fr.txt") == ("fr", str(Path.home() / "fr.txt"))
    assert code_and_name("qq=~/x") == ("qq", "~/x")
    assert code_and_name("qq_Latn=Quenya = Elvish") == ("qq_Latn", "Quenya = Elvish")


@pytest.mark.parametrize("text", ["qq", "qq=", "=Quenya", "="])
def test_a_language_name_needs_a_code_and_a_name(text):
    with pytest.raises(ArgumentTypeError, match=f"^'{text}' does not have the form CODE=NAME, such as qq=Quenya$"):
        code_and_name(text)
