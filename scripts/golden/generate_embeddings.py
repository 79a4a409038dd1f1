#!/usr/bin/env python3
"""Writes what Hugging Face transformers makes of prompts besides logits, for the tests of
embeddings and classes.

  python scripts/golden/generate_embeddings.py tests/golden tests/data/embeddings

Needs torch and transformers 5 (scripts/golden/requirements.txt). Writes
  hidden.json   models: {golden model: [{input_ids, hidden}]}, the last token's hidden state after
                the final norm, for the prompts of its golden.json; labels and classes: [{input_ids,
                probs}] of the classifier
  classifier/   a LlamaForSequenceClassification on a golden model's decoder
Everything is computed in float32.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

MODELS = ("llama", "mistral-window", "qwen2", "qwen3")
CLASSIFIER_BASE = "storage-float16"
LABELS = ("calm", "rough", "foggy")
HEAD_STD = 0.05   # such that no label takes all of the probability


def prompts_of(folder):
    golden = json.loads((folder / "golden.json").read_text())
    return [prompt["input_ids"] for prompt in golden["prompts"]]


def rounded(values):
    return [float(f"{value:.6g}") for value in values.tolist()]


@torch.no_grad()
def hidden_states(folder):
    model = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    return [dict(input_ids=ids, hidden=rounded(
        model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]))
        for ids in prompts_of(folder)]


@torch.no_grad()
def classes(base, folder):
    torch.manual_seed(1)
    model = transformers.LlamaForSequenceClassification.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})
    model.score.weight.normal_(std=HEAD_STD)
    model.to(torch.float16).save_pretrained(folder)
    model = transformers.LlamaForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    return [dict(input_ids=ids, probs=rounded(
        model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)))
        for ids in prompts_of(base)]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = dict(
        transformers=transformers.__version__, torch=torch.__version__,
        models={name: hidden_states(args.golden / name) for name in MODELS},
        labels=LABELS, classes=classes(args.golden / CLASSIFIER_BASE, args.out / "classifier"))
    (args.out / "hidden.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
