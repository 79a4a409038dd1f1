"""lm-evaluation-harness asks for the log-probabilities of prompts that it has tokenized itself. Its
score is the one that transformers gives for the same model, expected.json, which was made by

  lm_eval --model hf --model_args pretrained=demo/model,dtype=float32 --device cpu \\
    --include_path tests/clients/lm_eval --tasks tale_endings --output_path OUT

(with torch installed beside tests/clients/requirements.txt): its "results"."tale_endings".
"""

import json

from conftest import REPO, TOOLS

FOLDER = REPO / "tests" / "clients" / "lm_eval"


def test_the_score_is_that_of_transformers(run, server, spec, tmp_path):
    model = {"model": spec["model"], "base_url": server.url + "/v1/completions",
             "tokenizer": REPO / "demo" / "model", "tokenizer_backend": "huggingface",
             "tokenized_requests": True, "num_concurrent": 4, "max_retries": 1,
             "max_length": 1024}
    run(TOOLS / "lm_eval", "--model", "local-completions", "--model_args",
        ",".join(f"{name}={value}" for name, value in model.items()), "--include_path", FOLDER,
        "--tasks", "tale_endings", "--output_path", tmp_path, cwd=REPO, HF_HOME=str(tmp_path),
        HF_HUB_OFFLINE="1", OPENAI_API_KEY="none")
    [report] = tmp_path.rglob("results_*.json")
    score = json.loads(report.read_text())["results"]["tale_endings"]
    expected = json.loads((FOLDER / "expected.json").read_text())
    told = {name: score[name] for name in expected}
    assert told == expected
