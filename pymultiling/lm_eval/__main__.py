"""`python -m pymultiling.lm_eval`: lm-eval's own command line, which knows the model `pymultiling` by now."""

from lm_eval.__main__ import cli_evaluate

cli_evaluate()
