"""Parallel multilingual input (PMI): prompts that show a text in several languages at once, and their effects.

Source: arXiv 2403.09073.
"""

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
    # tasks
    "ParallelItem",
    "ParallelTask",
    "free",
    "math",
    "nli",
    "translation",
    # prompts
    "Form",
    "Template",
    "language_name",
    "load_template",
    "prompt",
    # parallel inputs that a model makes
    "Generator",
    "Server",
    "translate",
    "translate_items",
    # comparison of prompts
    "Comparison",
    "compare",
]
