"""pymultiling: which neurons of a language model a language uses, and what happens without them.

Importing is light: torch, transformers and the kernels are loaded with the first name that needs them.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "pymultiling.activation_statistics": ("ActivationStatistics", "MostActive"),
    "pymultiling.errors": (
        "BackendUnavailable",
        "CheckpointError",
        "CorpusError",
        "HubError",
        "NonFiniteActivations",
        "TranslationError",
        "UnsupportedModel",
    ),
    "pymultiling.folders": ("load_sets",),
    "pymultiling.hub": ("pull_from_hub", "push_to_hub"),
    "pymultiling.methods.ablation": ("ablation_matrix", "perplexity"),
    "pymultiling.methods.activations": ("Activations", "activations"),
    "pymultiling.methods.embeddings": ("SentenceEmbeddings", "sentence_embeddings"),
    "pymultiling.methods.fine_tuning": ("FineTuning", "fine_tune"),
    "pymultiling.methods.freezing": ("freeze",),
    "pymultiling.methods.ilo": ("ilo",),
    "pymultiling.methods.lape": ("lape",),
    "pymultiling.methods.lens": ("lens",),
    "pymultiling.methods.means": ("mean_activations",),
    "pymultiling.methods.model_comparison": ("ModelComparison", "ModelMeasures", "compare_models", "measure_model"),
    "pymultiling.methods.mwork": ("mwork",),
    "pymultiling.methods.mwork_search": ("MWorkSearch", "mwork_search"),
    "pymultiling.methods.overlap": ("Overlap", "overlap"),
    "pymultiling.methods.plnd": ("Detection", "detect", "importance"),
    "pymultiling.methods.retrieval": ("cka", "retrieval"),
    "pymultiling.methods.ternary": ("Ternary", "ternary"),
    "pymultiling.methods.ternary_change": ("TernaryChange", "ternary_change"),
    "pymultiling.methods.ternary_parts": ("ternary_parts",),
    "pymultiling.methods.tuning": ("NeuronTuning", "train_only"),
    "pymultiling.models.families": ("register_family",),
    "pymultiling.models.family": ("Family",),
    "pymultiling.models.masking": ("deactivate",),
    "pymultiling.neurons": ("NeuronSet",),
    "pymultiling.selection": ("Threshold", "TopK"),
    "pymultiling.sites": ("SITES",),
    "pymultiling.statistics": ("NeuronStatistics",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("embedded", "ops", "pmi", "tasks", "triton_kernels")

__all__ = ["__version__", *sorted(_HOME_OF), *_MODULES]


def __getattr__(name: str):
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
