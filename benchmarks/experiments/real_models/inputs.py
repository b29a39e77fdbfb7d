"""What the parts measure: the model, its languages and their texts. Each is made when a part first needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.experiments.real_models.sample import Sample
from benchmarks.experiments.real_selection import bits_of_translations, first_texts, languages_in
from benchmarks.experiments.tuning import load_texts
from pymultiling.cli.detect import PACK

ENGLISH = "en"


@dataclass(eq=False)
class Inputs:
    """The model of a folder, in float32, and the texts that it is measured with.

    Attributes:
        folder: the folder of the model.
        corpora: folder with LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz for each language.
        parallel: a table of sentences in English and their translations.
        sample: how much is measured.
        bits: bits that the model needs for a language's translations per byte of English, if they are known.
    """

    folder: Path
    corpora: Path
    parallel: Path
    sample: Sample
    bits: dict[str, float] | None = None

    @cached_property
    def model(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return model  # in evaluation mode, as from_pretrained leaves it

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """English, and the languages with the fewest bits."""
        if self.bits is None:
            found = languages_in(self.corpora)
            self.bits = bits_of_translations(self.model, self.tokenizer, self.parallel, found)
        bits = self.bits
        return tuple(sorted(bits, key=lambda language: (language != ENGLISH, bits[language]))[: self.sample.languages])

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """The training texts of each language."""
        return load_texts(self.corpora, self.languages, heldout=False)

    @cached_property
    def heldout(self) -> dict[str, list[str]]:
        """All held-out texts of each language."""
        return load_texts(self.corpora, self.languages, heldout=True)

    @cached_property
    def ablated(self) -> dict[str, list[str]]:
        """The held-out texts of each language with which sets are deactivated."""
        return {
            language: first_texts(lines, self.tokenizer, self.sample.heldout)
            for language, lines in self.heldout.items()
        }

    @cached_property
    def detection(self) -> pml.Detection:
        """The neurons of each language, with the defaults of the command `detect` but for the number of tokens."""
        return pml.detect(self.model, self.tokenizer, self.texts, pack=PACK, tokens=self.sample.tokens, progress=False)

    @cached_property
    def activations(self) -> pml.Activations:
        """In how many positions of each language every FFN neuron is active."""
        return pml.activations(self.model, self.tokenizer, self.texts, tokens=self.sample.tokens, progress=False)
