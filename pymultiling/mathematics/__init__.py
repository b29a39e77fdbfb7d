"""Formulas that are shared by the operators' references and by the code that hooks into models."""
