"""Sites, sets of neurons and their selection, and the statistics of importance and of activations, with their files."""
