"""Writes a tiny Qwen2 model and a tokenizer into a file of llama.cpp, with weights in 8 bits."""

from pathlib import Path

import gguf
import torch

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
Q8 = gguf.GGMLQuantizationType.Q8_0
BLOCK = 32  # numbers that share a scale


def write_gguf(path: Path, model) -> dict[str, torch.Tensor]:
    """Writes the file, and returns the state of the model with the numbers that the file holds."""
    config, writer = model.config, gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    pairs = [f"a{letter}" for letter in LETTERS]
    tokens = ["<unk>", "<s>", "</s>", "Ġ", *LETTERS, *pairs]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, *(f"<{number}>" for number in range(len(tokens), config.vocab_size))])
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    state = {}
    for name, value in model.state_dict().items():
        stem, _, end = name.rpartition(".")
        numbers, kind = value.float().numpy(), None
        if numbers.ndim == 2 and numbers.shape[1] % BLOCK == 0:
            numbers, kind = gguf.quants.quantize(numbers, Q8), Q8
        writer.add_tensor(f"{names.get_name(stem)}.{end}", numbers, raw_dtype=kind)
        state[name] = torch.from_numpy(numbers if kind is None else gguf.quants.dequantize(numbers, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state
