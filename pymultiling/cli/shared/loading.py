"""The model that a command is to look at."""

from __future__ import annotations

from argparse import Namespace

from pymultiling.results.run import Run


def load(arguments: Namespace, run: Run):
    """Model and tokenizer; notes in the run's record what they are."""
    from pymultiling.models.loading import hub_commit, load_model, pick_device

    with run.stage("load"):
        device = pick_device(arguments.device)
        model, tokenizer = load_model(arguments.model, device, arguments.dtype, arguments.revision)
    run.note(
        model={
            "name": arguments.model,
            "revision": hub_commit(arguments.model, arguments.revision),
            "type": model.config.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        device=str(device),
    )
    return model, tokenizer
