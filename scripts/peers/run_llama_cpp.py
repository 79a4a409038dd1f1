"""Times llama.cpp through its C interface, as its own llama-bench does: no sampling."""

import time

import llama_cpp as llama
from runner import random_ids, run

BATCH = 512


@llama.llama_log_callback
def silent(_level, _text, _data):
    pass


class State:
    def __init__(self, file, n_threads, n_remote_layers=0):
        llama.llama_log_set(silent, None)
        llama.llama_backend_init()
        self.threads = n_threads
        params = llama.llama_model_default_params()
        params.n_gpu_layers = n_remote_layers
        self.model = llama.llama_model_load_from_file(file.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {file}")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(BATCH, 0, 1)
        self.context = None

    def open(self, n_streams, n_tokens):
        """A fresh cache for so many streams of so many tokens."""
        if self.context:
            llama.llama_free(self.context)
        params = llama.llama_context_default_params()
        params.n_ctx = n_streams * ((n_tokens + 255) // 256 * 256)
        params.n_seq_max = n_streams
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")

    def decode(self, tokens, wanted):
        """tokens: (id, position, stream); logits of the last `wanted` are computed."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, stream) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = stream
            batch.logits[i] = i >= len(tokens) - wanted
        if llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        llama.llama_get_logits_ith(self.context, -1)  # waits

    def prefill(self, stream, n_tokens):
        ids = random_ids(n_tokens, self.vocab_size)
        for begin in range(0, n_tokens, BATCH):
            part = ids[begin:begin + BATCH]
            last = begin + len(part) == n_tokens
            self.decode([(token, begin + i, stream) for i, token in enumerate(part)],
                        1 if last else 0)

    def copy_stream(self, stream):
        """Gives another stream what stream 0 has in its cache, in memory of its own."""
        memory = llama.llama_get_memory(self.context)
        llama.llama_memory_seq_cp(memory, 0, stream, -1, -1)


def measure(state, work):
    n_streams = work["streams"]
    if work["kind"] == "prefill":
        state.open(n_streams, work["prompt"] + 1)
        state.prefill(0, 1)  # touches the buffers
        llama.llama_memory_clear(llama.llama_get_memory(state.context), True)
        begin = time.perf_counter()
        for stream in range(n_streams):
            state.prefill(stream, work["prompt"])
        return n_streams * work["prompt"] / (time.perf_counter() - begin)
    state.open(n_streams, work["context"] + work["generate"] + 2)
    state.prefill(0, work["context"])
    for stream in range(1, n_streams):
        state.copy_stream(stream)
    times = []
    for step in range(work["generate"] + 1):
        ids = random_ids(n_streams, state.vocab_size)
        state.decode([(token, work["context"] + step, stream) for stream, token in enumerate(ids)],
                     n_streams)
        times.append(time.perf_counter())
    return n_streams * work["generate"] / (times[-1] - times[0])


if __name__ == "__main__":
    run(lambda args: State(args.model, args.threads), measure)
