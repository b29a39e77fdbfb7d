"""The program of tests/models/test_tensor_parallel.py: compares tensor-parallel models with whole ones.

torchrun ... -m tests.support.tensor_parallel_program FOLDER NAME ...    the names are those of tiny models
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer

CHANGES = dict(intermediate_size=40)


def main(folder: Path, names: list[str]) -> None:
    distributed.init_process_group("gloo")
    for name in names:
        if distributed.get_rank() == 0:
            tiny_model(name, **CHANGES).save_pretrained(folder / name)
        distributed.barrier()
        compare(folder / name, tiny_model(name, **CHANGES), name)
    distributed.destroy_process_group()


@torch.no_grad()
def compare(path: Path, whole, name: str) -> None:
    """Asserts that results of the model saved in `path`, loaded with tensor parallelism, are those of `whole`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        spread = AutoModelForCausalLM.from_pretrained(
            path, tp_plan="auto", attn_implementation=whole.config._attn_implementation
        )
    batch = tiny_batch()
    for options in (dict(), dict(rope="post"), dict(score="released"), dict(qk="fast"), dict(fused=True)):
        expected, actual = (pml.importance(model, **batch, **options) for model in (whole, spread))
        for site in expected:
            assert_close(actual[site], expected[site], f"{name} {options} {site}")
    neurons, mean = random_neurons(whole), pml.mean_activations(whole, tiny_tokenizer(), texts("fr"))
    for site, values in pml.mean_activations(spread, tiny_tokenizer(), texts("fr")).items():
        assert_close(values, mean[site], f"{name} mean {site}")
    for options in (dict(), dict(scale=2.0), dict(mean=mean)):
        logits = []
        for model in (whole, spread):
            with pml.deactivate(model, [neurons, None], **options):
                logits.append(model(**batch).logits)
        assert_close(logits[1], logits[0], f"{name} deactivated {options}")
    corpora = {language: texts(language) for language in LANGUAGES}
    options = dict(batch_tokens=30, progress=False)
    counts = pml.activations(spread, tiny_tokenizer(), corpora, **options)
    folder = path.parent / f"{name}-state"
    detection = pml.detect(spread, tiny_tokenizer(), corpora, checkpoint=folder, **options)
    repetition = pml.detect(spread, tiny_tokenizer(), corpora, checkpoint=folder, **options)
    assert repetition.neurons == detection.neurons
    assert [part.name for part in folder.iterdir()] == ["process-0-of-1"]
    for language in corpora:
        expected = sum_importance(whole, corpora[language])
        assert detection.statistics[language].documents == len(corpora[language])
        for site in pml.SITES:
            assert_close(detection.statistics[language].sum[site], expected[site], f"{name} {language} {site}")
        assert counts[language].tokens == sum(len(text.split()) + 1 for text in corpora[language])
    print(f"{name}: agrees in process {os.environ['RANK']}", flush=True)


def sum_importance(model, lines: list[str]) -> dict[str, torch.Tensor]:
    """Returns {site: (layers, neurons)}, the sum of the importance over the lines, measured one by one."""
    by_line = [pml.importance(model, tiny_tokenizer()(line, return_tensors="pt")["input_ids"]) for line in lines]
    return {site: sum(importance[site][0].double() for importance in by_line) for site in pml.SITES}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, label: str) -> None:
    """Asserts that the largest error is below 1e-4 of the largest value. `label` names the values in the message."""
    assert actual.shape == expected.shape, (label, actual.shape, expected.shape)
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error < 1e-4, (label, error)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
