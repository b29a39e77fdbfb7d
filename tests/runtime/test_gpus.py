"""Properties of GPUs that torch is asked for."""

from unittest import mock

import torch

from pymultiling.runtime import gpus


def test_the_capability_of_each_gpu_is_asked_for_once():
    asked = []

    def ask(index):
        asked.append(index)
        return 9, index

    gpus._capability.cache_clear()
    with (
        mock.patch.object(torch.cuda, "get_device_capability", ask),
        mock.patch.object(torch.cuda, "current_device", return_value=1),
    ):
        for _ in range(2):
            assert gpus.capability(None) == gpus.capability(torch.device("cuda")) == (9, 1)
            assert gpus.capability(torch.device("cuda", 0)) == (9, 0)
    gpus._capability.cache_clear()
    assert sorted(asked) == [0, 1]
