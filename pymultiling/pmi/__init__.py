"""Parallel multilingual input (PMI, arXiv 2403.09073): prompts, the parallel inputs themselves, and what they do."""

from pymultiling.pmi.compare import Comparison, compare
from pymultiling.pmi.generator import Generator
from pymultiling.pmi.items import ParallelItem, ParallelTask
from pymultiling.pmi.languages import language_name
from pymultiling.pmi.prompts import prompt
from pymultiling.pmi.readers import free, math, nli, translation
from pymultiling.pmi.server import Server
from pymultiling.pmi.templates import Form, Template, load_template
from pymultiling.pmi.translate import translate, translate_items

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
