#!/usr/bin/env python3
"""Writes the golden models: tiny random checkpoints with the logits, log probabilities and greedy
continuations that Hugging Face transformers computes for them, in float32 on the CPU.

  python scripts/golden/generate_golden.py tests/golden [--only NAME,...] [--seed N]

Needs torch and transformers 5 (scripts/golden/requirements.txt). Each OUT/NAME then holds
config.json, safetensors, and golden.json:
  prompts: [{input_ids: [n], last_logits: [vocab],
             logprobs: [n - 1] (log p of each next prompt token),
             greedy: [<= 24 ids] (argmax continuation, ended before the first near-tie)}]
  context_length: only where rope scaling depends on it, see fix_dynamic_rope()
Weights are drawn wide so that a wrong rotation, mask, norm or shard shows in the logits.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from golden_models import GoldenModel, all_models
from safetensors.torch import save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

N_GREEDY = 24
NEAR_TIE = 1e-3          # a smaller lead of the best logit may turn under another order of sums
EMBEDDING_STD = 0.5
MATRIX_STD = 0.12
VECTOR_STD = 0.1
N_SHARDS = 4


@torch.no_grad()
def draw_weights(model, generator, exact_in):
    """Fills every parameter, rounded to each type in exact_in, so that storing it loses nothing.

    Only parameters are rounded: converting the whole module would round the rotary frequencies too,
    which no loaded checkpoint has.
    """
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.copy_(noise * (EMBEDDING_STD if "embed" in name else MATRIX_STD))
        elif "bias" in name:
            parameter.copy_(noise * VECTOR_STD)
        else:
            parameter.add_(noise * VECTOR_STD)
        for dtype in exact_in:
            parameter.copy_(parameter.to(dtype).float())


def fix_dynamic_rope(model, context_length):
    """Trireme fixes length-dependent rope scaling at start, for the context length it serves;
    transformers recomputes it as a sequence grows. The expectation is what transformers computes
    for a sequence that fills the context, held for every position."""
    rotary = model.model.rotary_emb
    rotary.inv_freq, rotary.attention_scaling = ROPE_INIT_FUNCTIONS["dynamic"](
        model.config, seq_len=context_length)
    rotary.rope_type = "default"  # no recomputation


@torch.no_grad()
def run_prompt(model, input_ids):
    def logits_of(ids):
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    logits = logits_of(input_ids)
    logprobs = torch.log_softmax(logits, -1)
    greedy = []
    for _ in range(N_GREEDY):
        best = logits_of(input_ids + greedy)[-1].topk(2)
        if (best.values[0] - best.values[1]).item() < NEAR_TIE:
            break
        greedy.append(best.indices[0].item())
    return dict(
        input_ids=input_ids,
        last_logits=[round(value, 6) for value in logits[-1].tolist()],
        logprobs=[round(logprobs[i, token].item(), 6) for i, token in enumerate(input_ids[1:])],
        greedy=greedy,
    )


def to_transformers4(config, overrides):
    """The same configuration as version 4 writes it."""
    rope = config.pop("rope_parameters")
    config.pop("layer_types", None)
    config |= dict(rope_theta=rope["rope_theta"], rope_scaling=None,
                   torch_dtype=config.pop("dtype"), transformers_version="4.51.3")
    config |= overrides
    if config.get("head_dim", 0) is None:
        del config["head_dim"]
    return dict(sorted(config.items()))


def write_sharded(tensors, folder):
    """Shards with an index; norms stay in float32, as some checkpoints mix types."""
    names = sorted(tensors)
    weight_map, total_size = {}, 0
    for shard in range(N_SHARDS):
        file_name = f"model-{shard + 1:05}-of-{N_SHARDS:05}.safetensors"
        part = {}
        for name in names[shard::N_SHARDS]:
            tensor = tensors[name]
            part[name] = tensor.float() if "norm" in name else tensor.to(torch.bfloat16)
            weight_map[name] = file_name
            total_size += part[name].nbytes
        save_file(part, folder / file_name, metadata={"format": "pt"})
    index = dict(metadata={"total_size": total_size}, weight_map=weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_checkpoint(model, golden, folder):
    stored_as = torch.bfloat16 if golden.storage == "sharded" else getattr(torch, golden.storage)
    model.to(stored_as).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if golden.storage == "sharded":
        names = {name for name, _ in model.named_parameters()}
        write_sharded({n: t for n, t in model.state_dict().items() if n in names}, folder)
        (folder / "model.safetensors").unlink()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if golden.transformers4 is not None:
        config = to_transformers4(config, golden.transformers4)
    path.write_text(json.dumps(config, indent=2) + "\n")


def largest_reload_error(folder, golden, results):
    """How far the written files are from the results when transformers loads them again."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    if golden.context_length:
        fix_dynamic_rope(model, golden.context_length)
    error = 0.0
    for result in results:
        logits = run_prompt(model, result["input_ids"])["last_logits"]
        error = max(error, max(abs(a - b) for a, b in zip(logits, result["last_logits"])))
    return error


def generate(golden: GoldenModel, out, seed):
    torch.manual_seed(seed)
    golden.config.dtype = "float32"
    model = transformers.AutoModelForCausalLM.from_config(
        golden.config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    draw_weights(model, generator, golden.exact_in)
    if golden.context_length:
        fix_dynamic_rope(model, golden.context_length)

    vocab_size = golden.config.vocab_size
    prompts = list(golden.short_prompts) + [
        torch.randint(3, vocab_size, (length,), generator=generator).tolist()
        for length in golden.prompt_lengths]
    results = [run_prompt(model, input_ids) for input_ids in prompts]

    folder = out / golden.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record = dict(architecture=golden.config.model_type, transformers=transformers.__version__,
                  torch=torch.__version__, seed=seed)
    if golden.context_length:
        record["context_length"] = golden.context_length
    (folder / "golden.json").write_text(json.dumps(record | dict(prompts=results)) + "\n")
    write_checkpoint(model, golden, folder)

    error = largest_reload_error(folder, golden, results)
    if error > 1e-4:
        raise SystemExit(f"{golden.name}: reloaded logits differ by {error}")
    size_kb = sum(f.stat().st_size for f in folder.iterdir()) / 1e3
    largest = max(abs(value) for result in results for value in result["last_logits"])
    print(f"{golden.name:22} {size_kb:6.0f} kB  greedy {[len(r['greedy']) for r in results]}"
          f"  largest logit {largest:5.1f}  reload error {error:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    only = set(filter(None, args.only.split(",")))
    for golden in all_models():
        if not only or golden.name in only:
            generate(golden, args.out, args.seed)


if __name__ == "__main__":
    main()
