"""`pymultiling demo` and `mwork --demo`: on the model and texts of the package.

Importing loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run, text_hash
from pymultiling.results.tables import (
    change_table,
    counts_by_layer,
    counts_by_site,
    log_change,
    own_and_others,
    own_table,
    perplexity_table,
    with_random,
)

if TYPE_CHECKING:
    import pandas

# Evidence: benchmarks/experiments/selection_sweep.py, 2026-11-21. Of fractions 0.01 ... 0.2 and shares 0.5, 0.7, 1.0 all from 0.05 on but
# one hold for all eight languages; at 0.05 and 0.7 the sets are small (58 to 146 neurons), the weakest effect is +0.20.
DOCUMENTS = 20  # a language, for detection
HELDOUT = 16  # a language, for perplexity
TOKENS = 128  # a document
TOP_FFN, TOP_ATTENTION, SHARE = 0.05, 0.05, 0.7
SEED = 0
ITEMS, CHARACTERS = 16, 160  # of mwork's task, a language, and of a text at most: it is to take a minute or two


def run(out: Path, documents: int = DOCUMENTS, heldout: int = HELDOUT, seed: int = SEED) -> None:
    """Finds each language's neurons, switches them off, prints and writes what happens.

    Args:
        out: folder for the results.
        documents: a language, of TOKENS tokens, to detect with.
        heldout: held-out documents a language to measure perplexity on.
        seed: of the random sets.
    """
    record = Run("demo", {"out": out, "documents": documents, "heldout": heldout, "seed": seed})
    with result_folder(out) as folder:
        with record.stage("load"):
            from pymultiling import demo_model
            from pymultiling.commands.ablate import write_ablation
            from pymultiling.commands.detect import write_detection

            model, tokenizer, corpora = _model_and_corpora(documents)
            apart = {name: enough(texts, tokenizer, heldout) for name, texts in demo_model.heldout().items()}
        detection = _detect(model, tokenizer, corpora, record)
        _show(detection.report())
        perplexities = _ablate(model, tokenizer, detection.specific(at_most=1), apart, seed, record)
        with record.stage("write"):
            write_detection(detection, folder, "embedded")
            write_ablation(perplexities, folder)
        record.note(seed=seed)
        _note(record, model, corpora, apart)
        record.write(folder)
    print(f"\nresults in {out}: neuron sets, statistics, tables, plots and run.json")
    print(f"the demo took {record.elapsed:.1f} s")


def _model_and_corpora(documents: int):
    from pymultiling import demo_model
    from pymultiling.models.loading import quieten

    quieten()
    model, tokenizer = demo_model.load()
    return model, tokenizer, {name: enough(texts, tokenizer, documents) for name, texts in demo_model.corpora().items()}


def _note(record: Run, model, corpora: dict[str, list[str]], apart: dict[str, list[str]]) -> None:
    record.note(
        model={"name": "embedded", "revision": None, "type": model.config.model_type, "dtype": "float32"},
        device="cpu",
        corpora={name: {"detection": text_hash(corpora[name]), "heldout": text_hash(apart[name])} for name in corpora},
    )


def enough(texts: list[str], tokenizer, documents: int) -> list[str]:
    """The first texts that fill this many documents."""
    tokens = 0
    for number, ids in enumerate(tokenizer(texts, verbose=False)["input_ids"], 1):
        tokens += len(ids)
        if tokens >= documents * TOKENS:
            return texts[:number]
    return texts


def _detect(model, tokenizer, corpora: dict[str, list[str]], record: Run):
    from pymultiling.methods.plnd import detect
    from pymultiling.neurons.selection import TopK

    with record.stage("detect"):
        return detect(model, tokenizer, corpora, select=TopK(TOP_FFN, TOP_ATTENTION, SHARE), pack=TOKENS)


def _show(report: pandas.DataFrame) -> None:
    print(f"Neurons among the top {TOP_FFN:.0%} (FFN) and {TOP_ATTENTION:.0%} (q, k, v, o) of their layer in at least")
    print(f"{SHARE:.0%} of a language's documents: all, and those selected for that language alone\n")
    print(counts_by_site(report), end="\n\n")
    print("Those selected for one language alone, by site and layer\n")
    print(counts_by_layer(report), end="\n\n", flush=True)


def _ablate(model, tokenizer, specific, texts: dict[str, list[str]], seed: int, record: Run):
    from pymultiling.methods.ablation import ablation_matrix

    with record.stage("ablate"):
        perplexities = ablation_matrix(model, tokenizer, with_random(specific, seed), texts, pack=TOKENS, progress=True)
    change = log_change(perplexities)
    print(
        "Perplexity of held-out text (columns) with neurons off (rows): none, a language's own, as many random ones\n"
    )
    print(perplexity_table(perplexities), end="\n\n")
    print("The same as change of log-perplexity against none\n")
    print(change_table(change), end="\n\n")
    print("A language's own neurons off: change for itself, mean change for the others; random ones off: for itself")
    print("(ratios: - where the other neurons do no harm to compare with)\n")
    print(own_table(own_and_others(change)))
    return perplexities


def for_mwork(record: Run):
    """Model, tokenizer, {language: its own neurons}, and tasks: second halves of held-out texts, by their likelihood."""
    from pymultiling import demo_model, tasks

    model, tokenizer, corpora = _model_and_corpora(DOCUMENTS)
    detection = _detect(model, tokenizer, corpora, record)
    apart = {
        name: [text for text in texts if len(text) <= CHARACTERS][:ITEMS] for name, texts in demo_model.heldout().items()
    }
    _note(record, model, corpora, apart)
    return model, tokenizer, detection.specific(), [tasks.continuation(apart).judged_by("likelihood")]
