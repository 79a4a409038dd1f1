#!/usr/bin/env python3
"""Trains the demo model: a teller of fairy tales of 6 M parameters and Llama's architecture.

  gunzip -k fairy-tales.txt.gz && python train_demo_model.py --minutes 75

Input:  fairy-tales.txt  (public-domain tales separated by <|endoftext|>)
Output: a Hugging Face model folder: config.json, model.safetensors (bf16), tokenizer.json,
        tokenizer_config.json (with the chat template), generation_config.json

Two sample formats, half and half, so that both plain completion and chat work:
  <|endoftext|>TEXT
  <|user|>Tell me a tale about a fox and a king.<|end|><|assistant|>TEXT
"""

import argparse
import json
import math
import os
import random
import re
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIALS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>", "<|pad|>"]
HEROES = """king queen prince princess fox wolf bear lion cat dog mouse horse bird witch giant dwarf
fairy dragon soldier tailor miller fisherman old woman old man boy girl raven frog snake eagle goat
donkey shepherd merchant robber knight wizard mermaid swan fish monkey tiger elephant crow hare
rabbit cock hen goose duck""".split()
REQUESTS = ["Tell me a tale", "Tell me a story", "Write a fairy tale", "Please tell a story"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}<|system|>{{ m['content'] }}<|end|>"
    "{% elif m['role'] == 'user' %}<|user|>{{ m['content'] }}<|end|>"
    "{% else %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
N_HELD_OUT = 12          # documents that training never sees
N_VALIDATION_WINDOWS = 48


def train_tokenizer(text, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = [text[i:i + 100000] for i in range(0, len(text), 100000)]
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def heroes_in(text):
    words = set(re.findall(r"[a-z]+", text.lower()))
    return [hero for hero in HEROES if hero in words]


def request_for(piece, rng):
    heroes = heroes_in(piece)
    rng.shuffle(heroes)
    request = rng.choice(REQUESTS)
    if heroes:
        named = [("an " if hero[0] in "aeiou" else "a ") + hero for hero in heroes[:2]]
        request += " about " + " and ".join(named)
    return request + "."


def samples(documents, tokenizer, context, seed):
    """One epoch of token windows of context + 1: [n_windows, context + 1]."""
    rng = random.Random(seed)
    ids = []
    end_of_text, user, assistant, end = (tokenizer.token_to_id(t) for t in SPECIALS[:4])
    order = documents[:]
    rng.shuffle(order)
    for document in order:
        paragraphs = document.split("\n\n")
        i = 0
        while i < len(paragraphs):
            n = rng.randint(4, 14)
            piece = "\n\n".join(paragraphs[i:i + n])
            i += n
            if rng.random() < 0.5:
                request = request_for(piece, rng)
                ids += [user] + tokenizer.encode(request).ids + [end, assistant]
                ids += tokenizer.encode(piece).ids + [end, end_of_text]
            else:
                ids += [end_of_text] + tokenizer.encode(piece).ids + [end_of_text]
    offset = rng.randrange(context)
    tokens = np.array(ids[offset:], dtype=np.int32)
    n_windows = len(tokens) // (context + 1)
    windows = tokens[:n_windows * (context + 1)].reshape(n_windows, context + 1)
    return windows[np.random.default_rng(seed).permutation(n_windows)]


def make_model(args):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 3,
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=[0, 3],
        pad_token_id=5,
        attention_dropout=0.0,
    ))


def make_optimizer(model, learning_rate):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=learning_rate, betas=(0.9, 0.95))


def learning_rate_at(fraction, peak):
    """Warm-up over the first 2 % of the time, then a cosine down to 5 %."""
    if fraction < 0.02:
        return peak * min(1, fraction / 0.02)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1, (fraction - 0.02) / 0.98)))
    return peak * (0.05 + 0.95 * cosine)


def loss_of(logits, targets, vocab_size):
    return torch.nn.functional.cross_entropy(logits.reshape(-1, vocab_size), targets.reshape(-1))


@torch.no_grad()
def evaluate(model, windows, vocab_size):
    model.eval()
    losses = []
    for i in range(0, len(windows), 16):
        x = windows[i:i + 16]
        losses.append(loss_of(model(input_ids=x[:, :-1]).logits, x[:, 1:], vocab_size).item())
    model.train()
    loss = sum(losses) / len(losses)
    print(f"val loss {loss:.4f} ppl {math.exp(loss):.2f}", flush=True)
    return loss


def train(model, documents, tokenizer, validation, args):
    """Trains for args.minutes; returns (tokens seen, epochs begun)."""
    optimizer = make_optimizer(model, args.lr)
    start, budget_s = time.time(), args.minutes * 60
    step = epoch = tokens = 0
    while True:
        windows = samples(documents, tokenizer, args.ctx, 100 + epoch)
        epoch += 1
        for i in range(0, len(windows) - args.batch, args.batch):
            fraction = (time.time() - start) / budget_s
            if fraction >= 1:
                return tokens, epoch
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(fraction, args.lr)
            x = torch.from_numpy(windows[i:i + args.batch].astype(np.int64))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(input_ids=x[:, :-1]).logits
            loss = loss_of(logits.float(), x[:, 1:], args.vocab)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            tokens += args.batch * args.ctx
            if step % 100 == 0:
                speed = tokens / (time.time() - start)
                print(f"step {step} epoch {epoch} tokens {tokens / 1e6:.2f}M "
                      f"loss {loss.item():.3f} {speed:.0f} tok/s", flush=True)
            if step % 1000 == 0:
                evaluate(model, validation, args.vocab)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2)


def save(model, args, tokens, epochs, validation_loss, n_parameters):
    model.generation_config.update(
        do_sample=True, temperature=0.8, top_p=0.95, eos_token_id=[0, 3], pad_token_id=5)
    model.to(torch.bfloat16).save_pretrained(args.out)
    write_json(f"{args.out}/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "add_bos_token": False,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    })
    write_json(f"{args.out}/training.json", {
        "tokens": tokens, "epochs": epochs, "minutes": args.minutes,
        "val_loss": validation_loss, "params": n_parameters, "seed": args.seed,
    })


def show_samples(model, tokenizer):
    model.float()
    model.eval()
    for prompt in ("<|endoftext|>Once upon a time there was a",
                   "<|user|>Tell me a tale about a fox and a king.<|end|><|assistant|>"):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        out = model.generate(ids, max_new_tokens=150, do_sample=True, temperature=0.8, top_p=0.95)
        print(tokenizer.decode(out[0].tolist(), skip_special_tokens=False), "\n---", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="fairy-tales.txt")
    parser.add_argument("--out", default="demo-model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--ctx", type=int, default=384)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)
    with open(args.text, encoding="utf-8") as file:
        documents = file.read().split("\n<|endoftext|>\n")
    held_out, training = documents[:N_HELD_OUT], documents[N_HELD_OUT:]
    tokenizer = train_tokenizer("\n\n".join(training), args.vocab)
    tokenizer.save(f"{args.out}/tokenizer.json")
    model = make_model(args)
    n_parameters = sum(p.numel() for p in model.parameters())
    validation = samples(held_out, tokenizer, args.ctx, 0)[:N_VALIDATION_WINDOWS]
    validation = torch.from_numpy(validation.astype(np.int64))
    print(f"params {n_parameters / 1e6:.2f} M, train docs {len(training)}", flush=True)
    tokens, epochs = train(model, training, tokenizer, validation, args)
    loss = evaluate(model, validation, args.vocab)
    save(model, args, tokens, epochs, loss, n_parameters)
    show_samples(model, tokenizer)


if __name__ == "__main__":
    main()
