"""A paper's tables on a model and texts of the user: chains of the library's methods, a file for each paper."""
