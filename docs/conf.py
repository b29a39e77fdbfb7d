"""Sphinx settings. `make docs` builds the site from the pages in docs and from README, CONTRIBUTING and CHANGELOG.

The source directory is the root of the repository (`sphinx-build -c docs . build/docs`), so that links between pages
are the same on the site as in the repository. A link to nothing ends the build.
"""

import sys
from pathlib import Path

import pymultiling

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "pymultiling"
author = "pymultiling maintainers"
version = release = pymultiling.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "pymultiling/demo_model/README.md",
]
# Folders that Sphinx need not search.
exclude_patterns = [".*", "build", "demo", "tests", "csrc", "**/__pycache__"]
templates_path = ["templates"]

extensions = [
    "myst_nb",  # Markdown, and the notebook docs/tutorial.md
    "sphinx.ext.autodoc",
    "plain_docstrings",
    "command_line",
]

# The notebook runs in each build, in a temporary folder. What its code logs is left out, and an error ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600  # seconds for a cell
nb_execution_raise_on_error = True
nb_output_stderr = "remove"

# Headings have the anchors that GitHub gives them.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
nitpicky = True
# Types in signatures that have no page here: those of other packages, and the package's names for unions of types and
# for the words that an argument can be, which the docstrings explain.
nitpick_ignore_regex = [
    ("py:class", r"(torch|pandas|pathlib|collections)\..*"),
    ("py:class", r"Tensor|nn\.Module|Path|PreTrainedTokenizer(Base|Fast)|LlamaForCausalLM"),
    ("py:class", r"(Pair)?Corpus|Json|TokenIds|(Ternary|Measure|Ilo)Options|Setting"),
    ("py:class", r"Site|Rope|Mode|Metric|ImportanceScore|Positions|ExportDtype"),
    ("py:class", r"pymultiling\.(methods\.pmi|models|runtime)\..*"),
]
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"pymultiling {release}"
html_copy_source = False
html_show_copyright = False
html_additional_pages = {"index": "to_root_doc.html"}  # the site's address without a page leads to its first page
html_theme_options = {"navigation_with_keys": True}
