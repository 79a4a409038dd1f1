"""LiteLLM, as programs that talk to many providers use it."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # ask nobody for prices

import litellm  # noqa: E402


def test_litellm(spec, expected):
    def stream_chat(max_tokens, **more):
        return litellm.completion(
            model=f"openai/{spec['model']}", api_base=spec["base_url"], api_key="none",
            messages=[{"role": "user", "content": spec["question"]}], max_tokens=max_tokens,
            temperature=0, stream=True, stream_options={"include_usage": True}, max_retries=0,
            **more)

    def text_of(chunks):
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    most = spec["max_tokens"]
    chunks = list(stream_chat(most["chat"]))
    [usage] = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    call = ["", ""]
    for chunk in stream_chat(
            most["tool"], tools=[{"type": "function", "function": spec["tool"]}],
            tool_choice={"type": "function", "function": {"name": spec["tool"]["name"]}}):
        for delta in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            call[0] += delta.function.name or ""
            call[1] += delta.function.arguments or ""
    texts = [text_of(stream_chat(most["text"],
                                 extra_body={"structured_outputs": {"choice": [text]}}))
             for text in spec["texts"]]
    echoes = ["".join(
        chunk.choices[0].text or "" for chunk in litellm.text_completion(
            model=f"text-completion-openai/{spec['model']}", api_base=spec["base_url"],
            api_key="none", prompt=text, echo=True, max_tokens=most["echo"], temperature=0,
            stream=True)) for text in spec["texts"]]
    assert {"chat": text_of(chunks), "usage": [usage.prompt_tokens, usage.completion_tokens],
            "tool": call, "texts": texts, "echoes": echoes} == expected
