"""Times transformers on PyTorch in bfloat16, greedy, without its generate()."""

import time

import torch
from runner import random_ids, run, steps_rate
from transformers import AutoModelForCausalLM


class State:
    def __init__(self, args):
        torch.set_num_threads(args.threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
        self.vocab_size = self.model.config.vocab_size

    def prefill(self, n_streams, n_prompt):
        ids = torch.tensor([random_ids(n_prompt, self.vocab_size) for _ in range(n_streams)])
        begin = time.perf_counter()
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        return begin, out

    def step(self, out):
        next_ids = out.logits[:, -1:].argmax(-1)
        return self.model(next_ids, past_key_values=out.past_key_values, use_cache=True)


def measure(state, work):
    if work["kind"] == "prefill":
        begin, _ = state.prefill(work["streams"], work["prompt"])
        return work["streams"] * work["prompt"] / (time.perf_counter() - begin)
    _, out = state.prefill(work["streams"], work["context"])
    times = []
    for _ in range(work["generate"] + 1):
        out = state.step(out)
        times.append(time.perf_counter())
    return steps_rate(times, work["streams"])


if __name__ == "__main__":
    run(State, measure)
