"""The output of a run: its record, its folder, tables and plots."""
