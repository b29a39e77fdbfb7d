"""`python -m pymultiling.lm_eval`: runs the command line of lm-eval, to which the model `pymultiling` was added."""

from lm_eval.__main__ import cli_evaluate

cli_evaluate()
