"""make_gguf.py FOLDER OUT.gguf: a bfloat16 GGUF file of a random Llama, with a dummy tokenizer.

The rows of q and k are not permuted as real weights would have to be: nobody reads the answers.
"""

import sys

import gguf
import numpy as np
from model_weights import ModelFolder

LAYER_TENSORS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj"}
N_CONTROL = 256  # the last ids, as in real vocabularies of this size


def tensor_names(model):
    """(name in GGUF, name in safetensors)."""
    yield "token_embd.weight", "model.embed_tokens.weight"
    for layer in range(model.config["num_hidden_layers"]):
        for ours, theirs in LAYER_TENSORS.items():
            yield f"blk.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight"
    yield "output_norm.weight", "model.norm.weight"
    if "lm_head.weight" in model.entries:
        yield "output.weight", "lm_head.weight"


def byte_characters():
    """The printable characters that stand for the 256 bytes in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def add_tokenizer(writer, vocab_size):
    tokens = byte_characters()
    tokens.append(tokens[0] + tokens[1])
    tokens += [f"t{i}" for i in range(len(tokens), vocab_size)]
    types = [gguf.TokenType.NORMAL] * (vocab_size - N_CONTROL) + [
        gguf.TokenType.CONTROL] * N_CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(vocab_size - N_CONTROL)
    writer.add_eos_token_id(vocab_size - N_CONTROL + 1)


def add_shape(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def content_of(model, name):
    """A norm in float32, a matrix in bfloat16: the stored halves as they are."""
    dtype, values = model.raw(name)
    if values.ndim == 1:
        return model.float32(name)
    if dtype != "BF16":
        raise SystemExit(f"{name} is {dtype}: write the model with --dtype bfloat16")
    return np.ascontiguousarray(values)


def main(folder, out):
    model = ModelFolder(folder)
    writer = gguf.GGUFWriter(out, "llama")
    add_shape(writer, model.config)
    add_tokenizer(writer, model.config["vocab_size"])
    names = list(tensor_names(model))
    for ours, theirs in names:
        _, values = model.raw(theirs)
        matrix = values.ndim == 2
        writer.add_tensor_info(
            ours, values.shape, np.dtype(np.float16 if matrix else np.float32),
            values.size * (2 if matrix else 4),
            gguf.GGMLQuantizationType.BF16 if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, theirs in names:
        writer.write_tensor_data(content_of(model, theirs))
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
