"""Sites, sets of neurons, how they are selected, and the two statistics of them, with their files."""
