"""What every client is asked to do, and what the answers are, by plain HTTP without streams.

A client gets the specification and gives {"chat": the text of a streamed answer, "usage":
[prompt, completion] of the chunk behind it, "tool": [name, arguments] of a streamed call, "texts":
what it heard where the model can say one text only, "echoes": what it heard where the model repeats
a text and goes on}. Chats are streamed, so that characters come in pieces.
"""

import json

from trireme_process import http_post

# Chinese, emoji of several code points, right-to-left with marks, and what JSON must escape.
TEXTS = [
    "从前，有一只狐狸和一位老国王。",
    "🦊👑 👩‍👩‍👧‍👦 🏳️‍🌈 é ﬁ",
    "كان يا ما كان، ثعلبٌ وملك. שָׁלוֹם, שׁוּעָל!",
    "\"back\\slash\"\t\u2028 \u0001 </script>",
]
TOOL = {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "additionalProperties": False,
                   "properties": {"city": {"enum": ["Köln", "北京", "القاهرة"]},
                                  "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"]}}


def specification(url):
    return {"base_url": url + "/v1", "model": "demo", "tool": TOOL, "texts": TEXTS,
            "question": "Tell me a tale about a fox and a king.",
            "max_tokens": {"chat": 40, "tool": 300, "text": 300, "echo": 4}}


def plain_answers(url, spec):
    def ask(path, **body):
        status, answer = http_post(f"{url}/v1/{path}", body | {"model": spec["model"],
                                                               "temperature": 0})
        assert status == 200, answer
        return json.loads(answer)

    most = spec["max_tokens"]
    messages = [{"role": "user", "content": spec["question"]}]
    chat = ask("chat/completions", messages=messages, max_tokens=most["chat"])
    tool = ask("chat/completions", messages=messages, max_tokens=most["tool"],
               tools=[{"type": "function", "function": spec["tool"]}],
               tool_choice={"type": "function", "function": {"name": spec["tool"]["name"]}})
    call = tool["choices"][0]["message"]["tool_calls"][0]["function"]
    arguments = json.loads(call["arguments"])
    assert arguments["city"] in spec["tool"]["parameters"]["properties"]["city"]["enum"]
    echoes = [ask("completions", prompt=text, echo=True, max_tokens=most["echo"])["choices"][0]
              for text in spec["texts"]]
    for text, echo in zip(spec["texts"], echoes):
        assert echo["text"].startswith(text)
    return {"chat": chat["choices"][0]["message"]["content"],
            "usage": [chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"]],
            "tool": [call["name"], call["arguments"]],
            "texts": spec["texts"], "echoes": [echo["text"] for echo in echoes]}
