"""Triton's own client, which sends and asks for binary tensors unless told otherwise."""

import json

import numpy as np
import pytest
from trireme_process import http_post
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

PARAMETERS = {"max_tokens": 12, "temperature": 0}


@pytest.fixture
def client(server):
    with InferenceServerClient(server.url.removeprefix("http://")) as triton:
        yield triton


def make_input(name, datatype, values, binary=True):
    tensor = InferInput(name, list(values.shape), datatype)
    return tensor.set_data_from_numpy(values, binary_data=binary)


def complete(server, prompts):
    """What /v1/completions says to each prompt."""
    status, answer = http_post(server.url + "/v1/completions",
                               PARAMETERS | {"prompt": prompts, "return_token_ids": True})
    assert status == 200, answer
    return json.loads(answer)["choices"]


def test_server_and_model(client, spec):
    model = spec["model"]
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(model)
    assert metadata["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [-1]}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_texts(server, client, spec, binary):
    expected = [choice["text"] for choice in complete(server, spec["texts"])]
    texts = make_input("text_input", "BYTES", np.array(spec["texts"], dtype=object), binary)
    result = client.infer(spec["model"], [texts], request_id="7", parameters=PARAMETERS,
                          outputs=[InferRequestedOutput("text_output", binary_data=binary)])
    answers = result.as_numpy("text_output")
    assert [a.decode() if binary else a for a in answers] == expected
    assert result.get_response()["id"] == "7"


def test_ids(server, client, spec):
    ids = [[5, 6, 7], [8, 9, 10]]
    expected = [choice["token_ids"] for choice in complete(server, ids)]
    result = client.infer(spec["model"], [make_input("input_ids", "INT64", np.array(ids))],
                          model_version="1", parameters=PARAMETERS)
    rows, lengths = result.as_numpy("output_ids"), result.as_numpy("output_lengths")
    assert rows.dtype == np.int64
    assert [list(row[:n]) for row, n in zip(rows, lengths)] == expected


def test_a_refusal_says_why(client, spec):
    text = make_input("text_input", "BYTES", np.array(["x"], dtype=object))
    with pytest.raises(InferenceServerException, match=r"\[400\] temperature must be a number"):
        client.infer(spec["model"], [text], parameters={"temperature": -1})
    with pytest.raises(InferenceServerException, match='"other" does not exist'):
        client.infer("other", [text])
