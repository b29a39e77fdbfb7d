"""The library's own errors: each message says what was looked for and what to do."""


class UnsupportedModel(TypeError):
    """The model's modules are not where any known family has them."""


class BackendUnavailable(RuntimeError):
    """The backend that was asked for cannot run these tensors on this machine."""


class CorpusError(ValueError):
    """A corpus cannot be read, or has nothing in it."""


class CheckpointError(ValueError):
    """A saved file is damaged, of another kind, or of another model."""


class TranslationError(RuntimeError):
    """A model or a server did not answer all that it was asked; what it answered is kept where a cache is given."""


class ProcessLost(RuntimeError):
    """Another process of the run has ended before its work was done."""


class HubError(RuntimeError):
    """A folder cannot go to the Hugging Face Hub, or a repository cannot come from it."""


class NonFiniteActivations(ArithmeticError):
    """An activation is NaN or infinite, so no importance can be given; `document` is its place in the batch."""

    def __init__(self, message: str, document: int = 0):
        super().__init__(message)
        self.document = document


# Errors whose message says what to do.
SENTENCES = (
    ValueError,
    BackendUnavailable,
    HubError,
    NonFiniteActivations,
    ProcessLost,
    TranslationError,
    UnsupportedModel,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on the CPU or on a device."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return of_torch or isinstance(error, MemoryError)
