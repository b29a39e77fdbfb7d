"""What a probe measures."""

from torch import Tensor


class Importance(dict):
    """{site: (documents, layers, neurons)}, the importance of every neuron.

    Attributes:
        error: {site: standard error, of the same shape} for the sites that are estimates; empty where all are exact.
    """

    def __init__(self, values: dict[str, Tensor], error: dict[str, Tensor]):
        super().__init__(values)
        self.error = error
