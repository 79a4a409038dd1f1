#!/usr/bin/env python3
"""Writes what Hugging Face transformers makes of logits, for the tests of sampling parameters.

  python scripts/golden/generate_sampling.py tests/golden/llama tests/data/sampling

Needs torch and transformers 5 (scripts/golden/requirements.txt). Writes
  processors.json     random logits with random parameters: the logits after the processors (null
                      for minus infinity) and the probabilities that a token is drawn from
  continuations.json  greedy continuations of the golden model under processors, each ended before
                      the first near-tie, and what beam search finds
presence_penalty and frequency_penalty are not in transformers: here they are OpenAI's formula.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import transformers
from transformers import (MinNewTokensLengthLogitsProcessor, MinPLogitsWarper,
                          NoBadWordsLogitsProcessor, PrefixConstrainedLogitsProcessor,
                          RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor,
                          TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

VOCAB_SIZE = 48
N_CASES = 120
N_TOKENS = 24
NEAR_TIE = 1e-3


def ids_tensor(ids):
    return torch.tensor([ids], dtype=torch.long)


def process(scores, rules, prompt, output):
    """[1, vocab] logits after the rules, in vLLM's order. Bad words are looked for in the output
    alone, as vLLM does."""
    everything = ids_tensor(prompt + output)
    if rules.get("allowed_token_ids"):
        allowed = PrefixConstrainedLogitsProcessor(lambda *_: rules["allowed_token_ids"], 1)
        scores = allowed(everything, scores)
    if rules.get("bad_words"):
        scores = NoBadWordsLogitsProcessor(rules["bad_words"])(ids_tensor(output), scores)
    if rules.get("min_tokens"):
        scores = MinNewTokensLengthLogitsProcessor(
            len(prompt), rules["min_tokens"], rules["end_token_ids"])(everything, scores)
    if rules.get("biases"):
        scores = SequenceBiasLogitsProcessor(
            {(token,): bias for token, bias in rules["biases"]})(everything, scores)
    if rules.get("repetition_penalty", 1.0) != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(
            rules["repetition_penalty"])(everything, scores)
    counts = torch.bincount(torch.tensor(output, dtype=torch.long), minlength=scores.shape[1])
    scores = scores - rules.get("frequency_penalty", 0.0) * counts
    return scores - rules.get("presence_penalty", 0.0) * (counts > 0)


def warp(scores, params):
    ids = ids_tensor([0])
    if params["temperature"] != 1.0:
        scores = TemperatureLogitsWarper(params["temperature"])(ids, scores)
    if params["min_p"] > 0:
        scores = MinPLogitsWarper(params["min_p"])(ids, scores)
    if params["top_k"] > 0:
        scores = TopKLogitsWarper(params["top_k"])(ids, scores)
    if params["top_p"] < 1:
        scores = TopPLogitsWarper(params["top_p"])(ids, scores)
    return torch.softmax(scores, -1)


def draw_rules(draw, vocab_size):
    token = lambda: draw.randrange(vocab_size)
    rules = {}
    if draw.random() < 0.4:
        rules["presence_penalty"] = round(draw.uniform(-2, 2), 2)
    if draw.random() < 0.4:
        rules["frequency_penalty"] = round(draw.uniform(-2, 2), 2)
    if draw.random() < 0.4:
        rules["repetition_penalty"] = round(draw.uniform(0.5, 2), 2)
    if draw.random() < 0.3:
        rules["min_tokens"] = draw.randrange(1, 12)
        rules["end_token_ids"] = sorted({token() for _ in range(3)})
    if draw.random() < 0.4:
        rules["biases"] = sorted({token(): round(draw.uniform(-10, 10), 1)
                                  for _ in range(6)}.items())
    if draw.random() < 0.2:
        rules["allowed_token_ids"] = sorted({token() for _ in range(vocab_size // 2)})
    if draw.random() < 0.4:
        rules["bad_words"] = [[token() for _ in range(draw.randrange(1, 4))] for _ in range(4)]
    return rules


def processor_cases(draw):
    for _ in range(N_CASES):
        logits = [round(draw.gauss(0, 3), 3) for _ in range(VOCAB_SIZE)]
        prompt = [draw.randrange(VOCAB_SIZE) for _ in range(draw.randrange(1, 20))]
        output = [draw.randrange(VOCAB_SIZE) for _ in range(draw.randrange(0, 12))]
        rules = draw_rules(draw, VOCAB_SIZE)
        if rules.get("bad_words") and len(output) > 2:
            rules["bad_words"].append(output[-2:] + [draw.randrange(VOCAB_SIZE)])
        params = dict(temperature=draw.choice([0.5, 1.0, 1.7]),
                      min_p=draw.choice([0.0, 0.0, 0.05, 0.3]),
                      top_k=draw.choice([0, 0, 3, 20]),
                      top_p=draw.choice([1.0, 1.0, 0.6, 0.95]))
        scores = process(torch.tensor([logits]), rules, prompt, output)
        if torch.isinf(scores).all():
            continue
        yield dict(logits=logits, prompt_ids=prompt, output_ids=output, rules=rules, params=params,
                   processed=[None if value == float("-inf") else value
                              for value in scores[0].tolist()],
                   probabilities=warp(scores, params)[0].tolist())


@torch.no_grad()
def greedy(model, prompt, rules):
    output = []
    for _ in range(N_TOKENS):
        logits = model(input_ids=ids_tensor(prompt + output), use_cache=False).logits[:, -1]
        best = process(logits, rules, prompt, output)[0].topk(2)
        if (best.values[0] - best.values[1]).item() < NEAR_TIE:
            break
        output.append(best.indices[0].item())
    return output


def continuations(model, draw):
    vocab_size = model.config.vocab_size
    for _ in range(12):
        prompt = [draw.randrange(3, vocab_size) for _ in range(draw.randrange(2, 30))]
        plain = greedy(model, prompt, {})
        rules = draw_rules(draw, vocab_size)
        # So that the rules change what would have been said.
        rules.setdefault("repetition_penalty", 1.3)
        if len(plain) > 4:
            rules["bad_words"] = [plain[1:2], plain[2:5]]
            rules["biases"] = sorted({plain[3]: -4.0, plain[0]: 2.5}.items())
        yield dict(prompt_ids=prompt, rules=rules, greedy=greedy(model, prompt, rules))


@torch.no_grad()
def searches(model, draw):
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    for width in (1, 2, 3, 5, 8):
        prompt = [draw.randrange(3, model.config.vocab_size) for _ in range(8 + width)]
        found = model.generate(ids_tensor(prompt), num_beams=width, num_return_sequences=width,
                               max_new_tokens=10, do_sample=False, use_cache=True,
                               return_dict_in_generate=True, output_scores=True)
        scores = found.sequences_scores if width > 1 else torch.zeros(1)
        yield dict(prompt_ids=prompt, width=width, max_new_tokens=10,
                   beams=[beam[len(prompt):] for beam in found.sequences.tolist()],
                   scores=[round(score, 6) for score in scores.tolist()])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager").eval()
    versions = dict(transformers=transformers.__version__, torch=torch.__version__)

    def write(name, content):
        (args.out / name).write_text(json.dumps(versions | content) + "\n")

    cases = list(processor_cases(random.Random(1)))
    write("processors.json", dict(vocab_size=VOCAB_SIZE, cases=cases))
    write("continuations.json", dict(continuations=list(continuations(model, random.Random(2))),
                                     searches=list(searches(model, random.Random(3)))))


if __name__ == "__main__":
    main()
