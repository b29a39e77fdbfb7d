"""Detection on the model and texts of the package, for `demo` and `mwork --demo`."""

from __future__ import annotations

from pymultiling.results.run import Run, text_hash

# Evidence: benchmarks/experiments/selection_sweep.py, 2026-11-21. Of fractions 0.01 ... 0.2 and shares 0.5, 0.7, 1.0 all from 0.05 on but
# one hold for all eight languages; at 0.05 and 0.7 the sets are small (58 to 146 neurons), the weakest effect is +0.20.
DETECTION_DOCUMENTS = 20  # a language, for detection
HELDOUT_DOCUMENTS = 16  # a language, for perplexity
DOCUMENT_TOKENS = 128  # a document
TOP_FFN, TOP_ATTENTION, SHARE = 0.05, 0.05, 0.7
SEED = 0


def load_demo(documents: int):
    """Model, tokenizer, and {language: its first texts that fill this many documents}."""
    from pymultiling import demo_model
    from pymultiling.models.loading import silence_transformers

    silence_transformers()
    model, tokenizer = demo_model.load()
    return (
        model,
        tokenizer,
        {name: first_texts_filling(texts, tokenizer, documents) for name, texts in demo_model.corpora().items()},
    )


def first_texts_filling(texts: list[str], tokenizer, documents: int) -> list[str]:
    """The first texts that fill this many documents."""
    tokens = 0
    for number, ids in enumerate(tokenizer(texts, verbose=False)["input_ids"], 1):
        tokens += len(ids)
        if tokens >= documents * DOCUMENT_TOKENS:
            return texts[:number]
    return texts


def detect_demo(model, tokenizer, corpora: dict[str, list[str]], record: Run):
    """The detection, timed in the run's record."""
    from pymultiling.methods.plnd import detect
    from pymultiling.neurons.selection import TopK

    with record.stage("detect"):
        return detect(model, tokenizer, corpora, select=TopK(TOP_FFN, TOP_ATTENTION, SHARE), pack=DOCUMENT_TOKENS)


def note_demo(record: Run, model, corpora: dict[str, list[str]], heldout: dict[str, list[str]]) -> None:
    """Notes the model and the texts in the run's record."""
    record.note(
        model={"name": "embedded", "revision": None, "type": model.config.model_type, "dtype": "float32"},
        device="cpu",
        corpora={
            name: {"detection": text_hash(corpora[name]), "heldout": text_hash(heldout[name])} for name in corpora
        },
    )
