"""Times OpenVINO GenAI on a GGUF file, by the metrics that it reports itself for one stream."""

import time

import numpy as np
import openvino as ov
import openvino_genai
from runner import Unsupported, random_ids, run

VOCAB_SIZE = 100000  # ids that every shape measured here has


class State:
    def __init__(self, args):
        self.pipeline = openvino_genai.LLMPipeline(
            args.model, "CPU", INFERENCE_NUM_THREADS=args.threads)

    def generate(self, n_streams, n_prompt, n_new):
        ids = np.array([random_ids(n_prompt, VOCAB_SIZE) for _ in range(n_streams)], np.int64)
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = n_new
        config.ignore_eos = True
        config.do_sample = False
        begin = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        return time.perf_counter() - begin, result.perf_metrics


def measure(state, work):
    if work["kind"] == "prefill":
        _, metrics = state.generate(1, work["prompt"], 1)
        return 1000 * work["prompt"] / metrics.get_ttft().mean
    if work["streams"] == 1:
        _, metrics = state.generate(1, work["context"], work["generate"] + 1)
        return 1000 / metrics.get_tpot().mean
    # Its metrics do not tell streams apart: the difference of a long and a short run.
    try:
        short_s, _ = state.generate(work["streams"], work["context"], 2)
        long_s, _ = state.generate(work["streams"], work["context"], work["generate"] + 2)
    except RuntimeError as error:
        raise Unsupported(str(error).splitlines()[0]) from error
    return work["streams"] * work["generate"] / (long_s - short_s)


if __name__ == "__main__":
    run(State, measure)
