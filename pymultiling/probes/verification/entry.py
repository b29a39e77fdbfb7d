"""Verifies a model when it is first used, and again when its structure has changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from torch import nn

from pymultiling.models.blocks import with_blocks
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.sites import SITES, Site
from pymultiling.probes.verification.fingerprint import fingerprint, outer_fingerprint
from pymultiling.probes.verification.report import Check, Verification
from pymultiling.probes.verification.verify import verify, verify_body

# {base model: (its fingerprint, what was found)}, and {model: the same of what it gives its base model}
_verifications: WeakKeyDictionary[nn.Module, tuple[int, Verification]] = WeakKeyDictionary()
_bodies: WeakKeyDictionary[nn.Module, tuple[int, Verification]] = WeakKeyDictionary()
_lock = threading.RLock()
_is_off: ContextVar[bool] = ContextVar("pymultiling_verification_is_off", default=False)


@contextmanager
def unverified(is_off: bool = True) -> Iterator[None]:
    """Inside, in this thread or task, models are used without verification. With is_off=False nothing changes."""
    token = _is_off.set(is_off or _is_off.get())
    try:
        yield
    finally:
        _is_off.reset(token)


def require_verified(decoder: Decoder, checks: Iterable[Check], is_on: bool = True) -> None:
    """Refuses a model that computes something else than what is to be measured.

    Args:
        decoder: the model.
        checks: the checks that the caller's numbers depend on.
        is_on: False: nothing is checked.

    Raises:
        UnsupportedModel: one of these checks failed; names the module and the size of the difference.
    """
    needed = tuple(checks)
    if is_on and needed and not _is_off.get():
        verification_of(decoder).require(needed)


def verification_of(decoder: Decoder) -> Verification:
    """Returns what was found when the model was first used, or last changed.

    What the thread has attached to the model, such as the block of an outer `deactivate`, is off in the check.
    """
    now = fingerprint(decoder)
    with _lock:  # a second thread takes what the first one finds
        base = _verifications.get(decoder.base_model)
        if base is None or base[0] != now:
            base = _verifications[decoder.base_model] = now, with_blocks((), verify)(decoder)
        if decoder.model is decoder.base_model:
            return base[1]
        now = hash((now, outer_fingerprint(decoder)))
        body = _bodies.get(decoder.model)
        if body is None or body[0] != now:
            body = _bodies[decoder.model] = now, with_blocks((), verify_body)(decoder, base[1].example)
        return base[1] + body[1]


def sites_of_sets(sets: Iterable[NeuronSet | None]) -> tuple[Site, ...]:
    """Returns the sites at which any of the sets has neurons."""
    used = {site for neurons in sets if neurons is not None for site, mask in neurons.sites.items() if mask.any()}
    return tuple(site for site in SITES if site in used)
