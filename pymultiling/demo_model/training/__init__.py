"""How the packaged model was made: its data, tokenizer, training and report. Not in the wheel."""
