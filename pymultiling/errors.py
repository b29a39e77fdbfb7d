"""The library's own exceptions. Each message says what is wrong and what to do."""

from __future__ import annotations

import unicodedata

# Categories of characters that a terminal obeys or that cannot be written: control characters, characters that change
# the direction of writing, and lone surrogates.
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # are of category Cf, and part of the spelling of Persian, Hindi and others


def printable(text: str) -> str:
    r"""Replaces the characters of a text that a terminal would obey by their escapes, such as \x1b.

    Line feeds and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    is_harmless = character in "\n\t" or character in JOINERS
    if is_harmless or unicodedata.category(character) not in UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode()


class _ReadableError(Exception):
    """An error whose message may hold names and texts from files, which are escaped by `printable`."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


class UnsupportedModel(_ReadableError, TypeError):
    """The library cannot measure this model.

    Raised when the model's modules are not where a known family has them, or when the model does something that the
    measurement does not cover (quantised weights, for example).

    What to do: the message names what is missing. `pymultiling doctor --model NAME` shows what was recognised; a model
    of an unknown family can be described with `register_family`.
    """


class BackendUnavailable(_ReadableError, RuntimeError):
    """Something that was asked for by name cannot run on this machine.

    Raised when a backend cannot run these tensors here, when there is no such device, or when an optional package is
    not installed.

    What to do: choose another backend or device, or install the package that the message names. `pymultiling doctor`
    lists the backends that can run.
    """


class CorpusError(_ReadableError, ValueError):
    """Texts, parallel sentences or task items cannot be read, or contain nothing to measure.

    Raised when a file does not exist or has another format than its name says, when a record lacks a field, or when no
    document is left.

    What to do: correct the file (the message names the line where it can), or give another file.
    """


class CheckpointError(_ReadableError, ValueError):
    """A saved file or folder cannot be used. It need not be a checkpoint.

    Raised when a model folder, neuron set, statistics file or checkpoint is missing, damaged, of another kind or of
    another model, and when a result folder is already used for something else.

    What to do: give the file that the message asks for. Where a checkpoint belongs to another call, repeat that call or
    give a new folder.
    """


class TranslationError(_ReadableError, RuntimeError):
    """A translation model or server did not answer every request.

    What to do: remove the cause that the message names (address, key, limits of the server), and call again with the
    same `cache`: answers that arrived are in it and are not requested again. Without a cache they are lost.
    """


class ProcessLost(_ReadableError, RuntimeError):
    """Another process of a distributed run ended before its work was done.

    What to do: look at what that process printed, and start the run again. With the same checkpoint folder it continues
    from there.
    """


class HubError(_ReadableError, RuntimeError):
    """A folder cannot be published on the Hugging Face Hub, or a repository cannot be fetched from it.

    What to do: check the repository's name, the login (`hf auth login` or HF_TOKEN) and the network, as the message
    says.
    """


class NonFiniteActivations(_ReadableError, ArithmeticError):
    """A value in the model is NaN or infinite, so that no importance or count can be given.

    What to do: load the model in float32 or bfloat16 instead of float16, and check its weights. The message names the
    site, the layer and the document.

    Attributes:
        document: the document's index in its batch.
    """

    def __init__(self, message: str, document: int = 0):
        super().__init__(message)
        self.document = document


# What to do about a NonFiniteActivations whose cause is in the model.
NON_FINITE_ADVICE = "look for NaN weights, or load the model in bfloat16 or float32 (float16 overflows early)"

# Errors that a user can act on: the command line prints their message alone. All others are reported as bugs.
EXPECTED_ERRORS = (
    ValueError,
    BackendUnavailable,
    HubError,
    NonFiniteActivations,
    ProcessLost,
    TranslationError,
    UnsupportedModel,
)


def error_text(error: BaseException) -> str:
    """Returns the message of an error, or the name of its type if it has none; `printable`."""
    return printable(str(error)) or type(error).__name__  # not `error or ...`: an exception object is always true


def type_and_text(error: BaseException) -> str:
    """Returns "TYPE: message" in one line, or "TYPE" if the error has no message."""
    name, message = type(error).__name__, " ".join(printable(str(error)).split())
    return f"{name}: {message}" if message else name


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error reports that memory is exhausted, on the CPU or on a device."""
    is_torch_error = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return is_torch_error or isinstance(error, MemoryError)
