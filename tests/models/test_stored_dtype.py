"""The dtype in which commands load a model whose weights are stored in 16 bits."""

import logging

import pytest
import torch

from pymultiling.models import stored_dtype
from pymultiling.models.loading import load_weights
from tests.support.tiny_models import tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def load(tmp_path):
    def load(stored, requested="auto", device=CPU):
        tiny_model("llama").to(stored).save_pretrained(tmp_path)
        return load_weights(str(tmp_path), device, requested).dtype

    return load


@pytest.mark.parametrize("has_products, expected", [(False, torch.float32), (True, torch.bfloat16)])
def test_bfloat16_becomes_float32_where_the_cpu_has_no_instructions_for_it(
    load, monkeypatch, caplog, has_products, expected
):
    caplog.set_level(logging.INFO, "pymultiling")
    monkeypatch.setattr(stored_dtype, "has_bfloat16_products", lambda: has_products)
    assert load(torch.bfloat16) == expected
    assert [record.levelname for record in caplog.records] == ([] if has_products else ["INFO"])
    assert has_products or "--dtype bfloat16" in caplog.text
    assert load(torch.bfloat16, "bfloat16") == torch.bfloat16
    assert load(torch.bfloat16, device=torch.device("meta")) == torch.bfloat16


def test_bfloat16_stays_where_float32_does_not_fit(load, monkeypatch, caplog):
    monkeypatch.setattr(stored_dtype, "has_bfloat16_products", lambda: False)
    monkeypatch.setattr(stored_dtype, "free_memory", lambda device: 1000)
    assert load(torch.bfloat16) == torch.bfloat16
    assert "0.0 GB are free" in caplog.text
    monkeypatch.setattr(stored_dtype, "free_memory", lambda device: None)
    assert load(torch.bfloat16) == torch.float32


def test_float16_becomes_float32_and_float32_stays(load):
    assert load(torch.float16) == load(torch.float32) == torch.float32
    assert load(torch.float32, "bfloat16") == torch.bfloat16


def test_instructions_of_this_cpu_are_known():
    assert isinstance(stored_dtype.has_bfloat16_products(), bool)
