"""The papers' methods: each a few functions over models, data and statistics, naming its paper."""
