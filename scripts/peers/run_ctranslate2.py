"""Times CTranslate2's generator, greedy, with a moment for every step."""

import time

import ctranslate2
from runner import random_ids, run, steps_rate


class State:
    def __init__(self, args):
        self.generator = ctranslate2.Generator(
            args.model, device="cpu", inter_threads=1, intra_threads=args.threads)
        self.vocab_size = 100000

    def generate(self, n_streams, n_prompt, n_new):
        """The moments of the steps, the first being that of the first tokens."""
        times = []

        def on_token(result):
            if result.batch_id == 0:
                times.append(time.perf_counter())
            return False

        prompts = [[f"t{token}" for token in random_ids(n_prompt, self.vocab_size)]
                   for _ in range(n_streams)]
        begin = time.perf_counter()
        self.generator.generate_batch(
            prompts, max_length=n_new, min_length=n_new, sampling_topk=1, beam_size=1,
            include_prompt_in_result=False, callback=on_token)
        return begin, times


def measure(state, work):
    if work["kind"] == "prefill":
        begin, times = state.generate(work["streams"], work["prompt"], 1)
        return work["streams"] * work["prompt"] / (times[0] - begin)
    _, times = state.generate(work["streams"], work["context"], work["generate"] + 1)
    return steps_rate(times, work["streams"])


if __name__ == "__main__":
    run(State, measure)
