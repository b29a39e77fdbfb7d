"""Detection with the demo model and its texts, for `demo` and `mwork --demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymultiling.results.run import Run, text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pymultiling.methods.detection import Detection

# These values come from benchmarks/experiments/selection_sweep.py (2026-11-21). It tried fractions from 0.01 to 0.2 and
# shares 0.5, 0.7 and 1.0. With fractions of at least 0.05 all settings but one separate all eight languages. With 0.05
# and 0.7 the sets are small (58 to 146 neurons), and the weakest effect is +0.20.
DETECTION_DOCUMENTS = 20  # per language
HELDOUT_DOCUMENTS = 16  # per language, for perplexity
DOCUMENT_TOKENS = 128  # per document
TOP_FFN, TOP_ATTENTION, SHARE = 0.05, 0.05, 0.7
SEED = 0
RECORDED_MODEL_NAME = "embedded"  # of the demo model, in run.json and in the files of its neuron sets


def load_demo(documents: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, list[str]]]:
    """Returns the demo model, its tokenizer, and {language: the first texts that fill this many documents}."""
    from pymultiling import demo_model
    from pymultiling.models.loading import silence_transformers

    silence_transformers()
    model, tokenizer = demo_model.load()
    corpora = {
        language: first_texts_filling(texts, tokenizer, documents) for language, texts in demo_model.corpora().items()
    }
    return model, tokenizer, corpora


def first_texts_filling(texts: list[str], tokenizer: PreTrainedTokenizerBase, documents: int) -> list[str]:
    """Returns the first texts that together have enough tokens for this many documents, or all texts."""
    tokens = 0
    for number, ids in enumerate(tokenizer(texts, verbose=False)["input_ids"], 1):
        tokens += len(ids)
        if tokens >= documents * DOCUMENT_TOKENS:
            return texts[:number]
    return texts


def detect_demo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpora: dict[str, list[str]],
    record: Run,
    progress: bool,
) -> Detection:
    """Detects the neurons of each language, and notes in the run's record how long it took."""
    from pymultiling.methods.plnd import detect
    from pymultiling.neurons.selection import TopK

    with record.stage("detect"):
        rule = TopK(TOP_FFN, TOP_ATTENTION, SHARE)
        return detect(model, tokenizer, corpora, select=rule, pack=DOCUMENT_TOKENS, progress=progress)


def note_demo(
    record: Run, model: PreTrainedModel, corpora: dict[str, list[str]], heldout: dict[str, list[str]]
) -> None:
    """Notes the demo model and the hashes of its texts in the run's record."""
    record.note(
        model={"name": RECORDED_MODEL_NAME, "revision": None, "type": model.config.model_type, "dtype": "float32"},
        device="cpu",
        corpora={
            language: {"detection": text_hash(corpora[language]), "heldout": text_hash(heldout[language])}
            for language in corpora
        },
    )
