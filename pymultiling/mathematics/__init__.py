"""Formulas that the operators' references and what sees a model share."""
