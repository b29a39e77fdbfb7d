"""Parallel multilingual input (PMI, arXiv 2403.09073): prompts, the parallel inputs themselves, and what they do."""

from pymultiling.data.languages import language_name
from pymultiling.methods.pmi.compare import Comparison, compare
from pymultiling.methods.pmi.generator import Generator
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.prompts import prompt
from pymultiling.methods.pmi.readers import free, math, nli, translation
from pymultiling.methods.pmi.server import Server
from pymultiling.methods.pmi.templates import Form, Template, load_template
from pymultiling.methods.pmi.translate import translate, translate_items

__all__ = [
    "Comparison",
    "Form",
    "Generator",
    "ParallelItem",
    "ParallelTask",
    "Server",
    "Template",
    "compare",
    "free",
    "language_name",
    "load_template",
    "math",
    "nli",
    "prompt",
    "translate",
    "translate_items",
    "translation",
]
