"""Training of the demo model: data, tokenizer, training and report. This folder is not in the wheel."""
