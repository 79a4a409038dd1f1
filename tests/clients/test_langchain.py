"""LangChain's ChatOpenAI and OpenAI."""

import json

from langchain_openai import ChatOpenAI, OpenAI


def test_langchain(spec, expected):
    def chat(max_tokens, **more):
        return ChatOpenAI(model=spec["model"], base_url=spec["base_url"], api_key="none",
                          max_tokens=max_tokens, temperature=0, stream_usage=True, max_retries=0,
                          **more)

    def whole(runnable):
        """The chunks of a stream, added up by LangChain."""
        added = None
        for chunk in runnable.stream(spec["question"]):
            added = chunk if added is None else added + chunk
        return added

    most = spec["max_tokens"]
    said = whole(chat(most["chat"]))
    usage = said.usage_metadata
    function = {"type": "function", "function": spec["tool"]}
    called = whole(chat(most["tool"]).bind_tools([function], tool_choice=spec["tool"]["name"]))
    [call] = called.tool_call_chunks
    assert called.tool_calls[0]["args"] == json.loads(call["args"])
    texts = [whole(chat(most["text"], extra_body={"structured_outputs": {"choice": [text]}}))
             .content for text in spec["texts"]]
    completion = OpenAI(model=spec["model"], base_url=spec["base_url"], api_key="none",
                        max_tokens=most["echo"], temperature=0, max_retries=0,
                        model_kwargs={"echo": True})
    echoes = ["".join(completion.stream(text)) for text in spec["texts"]]
    assert {"chat": said.content, "usage": [usage["input_tokens"], usage["output_tokens"]],
            "tool": [call["name"], call["args"]], "texts": texts, "echoes": echoes} == expected
