"""A folder that `save_pretrained` wrote: its files of weights, and under which keys they hold a model's parameters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from huggingface_hub import snapshot_download
from pydantic import Field
from torch import Tensor

from pymultiling.errors import CheckpointError, UnsupportedModel, type_and_text
from pymultiling.models.loading import check_name
from pymultiling.runtime.safetensors_copy import DTYPES, StoredTensor, copy_tensors, read_header, read_tensor
from pymultiling.runtime.schemas import Schema, SchemaError, parse_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# Files beside the weights that belong to a model: configurations, tokenizers, chat templates, code and licences.
BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken", "LICENSE*", "NOTICE*", "additional_chat_*/*")


class _Index(Schema):
    weight_map: dict[str, Annotated[str, Field(pattern=r"^[^/\\]+$")]]  # files of the same folder


class CheckpointFolder:
    """The weights and the other files of a folder.

    Attributes:
        folder: the folder.
        config: config.json.
        files: the files of weights.
        index: the index of the files; None if there is one file.
        tensors: {key: tensor} of all files.

    Raises:
        CheckpointError: a file is missing or damaged.
        UnsupportedModel: the weights are quantised.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = _read_json(folder / CONFIG, Schema)
        if "quantization_config" in self.config:
            raise UnsupportedModel(
                f"the weights in {folder} are quantised, and a neuron's entries cannot be changed alone: give the "
                "model that was quantised"
            )
        self.index = None
        names = [WEIGHTS]
        if not (folder / WEIGHTS).is_file():
            if not (folder / INDEX).is_file():
                raise CheckpointError(
                    f"{folder} has neither {WEIGHTS} nor {INDEX}: load the model with transformers, and give it, or a "
                    "folder that its save_pretrained wrote"
                )
            self.index = _read_json(folder / INDEX, _Index)
            names = sorted(set(self.index["weight_map"].values()))
        self.files = [folder / name for name in names]
        self.tensors: dict[str, StoredTensor] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            if not file.is_file():
                raise CheckpointError(f"{file}: no such file, though {INDEX} names it; fetch the model again")
            tensors, _ = read_header(file)
            self.tensors |= tensors
            self._file_of |= dict.fromkeys(tensors, file)

    def keys_of(self, parameter: str, shape: torch.Size, base_prefix: str) -> dict[int | None, str]:
        """Returns the keys of a parameter.

        Args:
            parameter: its name in the model.
            shape: its shape in the model.
            base_prefix: the name of the base model in the model, which a checkpoint of the base model lacks.

        Returns:
            {None: its key}, or {expert: key} if each expert of a stacked parameter has a tensor of its own.

        Raises:
            UnsupportedModel: the folder holds it under another name or in another shape, or quantised.
        """
        for name in _spellings(parameter, base_prefix):
            if name in self.tensors:
                return {None: self._checked(name, shape)}
            for per_expert in _expert_spellings(name) if len(shape) == 3 else ():
                keys = {expert: per_expert.format(expert) for expert in range(shape[0])}
                if keys[0] in self.tensors:
                    return {expert: self._checked(key, shape[1:]) for expert, key in keys.items()}
        raise UnsupportedModel(
            f"{self.folder} has no tensor {parameter}: load the model with transformers, and give it, or a folder that "
            "its save_pretrained wrote"
        )

    def _checked(self, key: str, shape: torch.Size) -> str:
        stored = self.tensors.get(key)
        if stored is None or stored.shape != tuple(shape):
            found = "missing" if stored is None else f"{stored.shape}"
            raise UnsupportedModel(
                f"{key} in {self.folder} is {found}, and the configuration asks for {tuple(shape)}: give the folder of "
                "one model"
            )
        if stored.dtype not in DTYPES:
            raise UnsupportedModel(f"{key} in {self.folder} is {stored.dtype}: give the model without quantisation")
        return key

    def read(self, key: str) -> Tensor:
        """Returns a tensor."""
        return read_tensor(self._file_of[key], self.tensors[key])

    def copy(
        self, target: Path, changes: Mapping[str, Callable[[Tensor], None]], dtype: torch.dtype | None = None
    ) -> None:
        """Copies everything that belongs to the model, with one tensor at a time in memory.

        Args:
            target: the folder to write.
            changes: {key: a function that changes the tensor in place}.
            dtype: the dtype of the copied weights; None: their own.

        Raises:
            OSError: the copy cannot be written.
        """
        target.mkdir(exist_ok=True)
        size = sum(copy_tensors(file, target / file.name, changes, dtype) for file in self.files)
        if self.index is not None:
            metadata = {**self.index.get("metadata", {}), "total_size": size}
            _write_json(target / INDEX, {**self.index, "metadata": metadata})
        config = self.config if dtype is None else _with_dtype(self.config, str(dtype).removeprefix("torch."))
        _write_json(target / CONFIG, config)
        for pattern in BESIDE:
            for file in self.folder.glob(pattern):
                if file.is_file() and file.name not in (CONFIG, INDEX):
                    copy = target / file.relative_to(self.folder)
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, copy)


def fetch_folder(name: str, revision: str | None = None) -> Path:
    """Returns a folder as it is, and that of a model on the Hub after fetching it.

    Raises:
        CheckpointError: there is no such model, or it cannot be fetched.
    """
    check_name(name, revision)
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["model*.safetensors", *BESIDE]))
    except Exception as error:  # the network library has errors of its own
        raise CheckpointError(
            f"{name} cannot be fetched ({type_and_text(error)}): check the network and the login"
        ) from error


def _read_json(path: Path, schema: type[Schema]) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        parse_json(schema, text)
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch the model again") from None
    contents: dict[str, Any] = json.loads(text)
    return contents


def _spellings(parameter: str, base_prefix: str) -> Iterator[str]:
    """Yields the names that checkpoints have for a parameter, first its own."""
    yield parameter
    # A checkpoint of the model without its head, such as openai-community/gpt2.
    yield parameter.removeprefix(f"{base_prefix}.")
    # The decoder in a model that takes images too. Its name there may be the one before transformers 4.52, which
    # save_pretrained still writes. The parameter's may be that in the decoder alone, which AutoModelForCausalLM takes
    # out of such a model (Llama 4, Qwen3.5).
    own = parameter.removeprefix("model.language_model.").removeprefix("model.")
    yield f"model.language_model.{own}"
    yield f"language_model.model.{own}"
    yield f"language_model.model.{own}".replace(".layers.", ".blocks.", 1)  # Kimi-K2.5, as save_pretrained writes it
    yield parameter.replace("model.language_model.", "model.", 1)  # Qwen2-VL
    yield parameter.replace("model.text_model.", "text_model.model.", 1)  # Emu3
    yield parameter.replace("model.text_model.", "text_model.", 1)
    if parameter.endswith(".experts.down_proj"):  # Granite
        yield f"{parameter.removesuffix('experts.down_proj')}output_linear.weight"
        yield f"{parameter.removesuffix('down_proj')}fc2.weight"  # Aria
    for name in ("shared_expert", "shared_mlp"):  # Laguna, Hy3
        yield parameter.replace(".mlp.shared_experts.", f".mlp.{name}.", 1)


def _expert_spellings(name: str) -> Iterator[str]:
    """Yields the names that checkpoints have for one expert's part of a stacked parameter, with {} for its number."""
    if name.endswith(".experts.down_proj"):
        prefix = name.removesuffix("down_proj")
        yield f"{prefix}{{}}.down_proj.weight"
        yield f"{prefix.replace('.mlp.', '.block_sparse_moe.')}{{}}.w2.weight"


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a configuration, and those of the model's parts in it, with another dtype."""
    parts = {name: _with_dtype(part, dtype) for name, part in config.items()
             if isinstance(part, dict) and "model_type" in part}  # fmt: skip
    return {**{name: value for name, value in config.items() if name != "torch_dtype"}, **parts, "dtype": dtype}


def _write_json(path: Path, contents: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", "utf-8")
