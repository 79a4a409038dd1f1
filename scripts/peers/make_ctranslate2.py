"""make_ctranslate2.py FOLDER OUT TYPE: a CTranslate2 model (int8, bfloat16) of a random Llama."""

import gc
import sys
from pathlib import Path

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from model_weights import ModelFolder


def fill_layer(layer, model, index):
    def weight(name):
        return model.float32(f"model.layers.{index}.{name}.weight")

    attention, ffn = layer.self_attention, layer.ffn
    attention.layer_norm.gamma = weight("input_layernorm")
    attention.linear[0].weight = np.concatenate(
        [weight(f"self_attn.{part}_proj") for part in "qkv"])
    attention.linear[1].weight = weight("self_attn.o_proj")
    ffn.layer_norm.gamma = weight("post_attention_layernorm")
    ffn.linear_0.weight = weight("mlp.gate_proj")
    ffn.linear_0_noact.weight = weight("mlp.up_proj")
    ffn.linear_1.weight = weight("mlp.down_proj")


def main(folder, out, quantization):
    model = ModelFolder(folder)
    config = model.config
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"], config["num_attention_heads"],
        activation=common_spec.Activation.SWISH, pre_norm=True, ffn_glu=True, rms_norm=True,
        rotary_dim=0, rotary_interleave=False, rotary_base=config["rope_theta"],
        num_heads_kv=config["num_key_value_heads"])
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = model.float32("model.embed_tokens.weight")
    decoder.layer_norm.gamma = model.float32("model.norm.weight")
    head = "lm_head.weight" if "lm_head.weight" in model.entries else "model.embed_tokens.weight"
    decoder.projection.weight = model.float32(head)
    for index, layer in enumerate(decoder.layer):
        fill_layer(layer, model, index)
        gc.collect()
    spec.register_vocabulary(
        ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, config["vocab_size"]))])
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    spec.validate()
    spec.optimize(quantization=quantization)
    Path(out).mkdir(parents=True, exist_ok=True)
    spec.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
