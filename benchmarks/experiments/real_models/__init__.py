"""The project's claims on a real model, part by part: prices, errors, effects of neurons, languages of the layers."""
