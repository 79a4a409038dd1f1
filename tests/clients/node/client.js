// Reads the specification of conversation.py from standard input, prints what the client heard.

import { readFileSync } from "node:fs";
import OpenAI from "openai";

const spec = JSON.parse(readFileSync(0, "utf8"));
const most = spec.max_tokens;
const client = new OpenAI({ baseURL: spec.base_url, apiKey: "none", maxRetries: 0 });

async function streamChat(maxTokens, more = {}) {
  const heard = { text: "", usage: null, tool: ["", ""] };
  const stream = await client.chat.completions.create({
    model: spec.model,
    messages: [{ role: "user", content: spec.question }],
    max_tokens: maxTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    ...more,
  });
  for await (const chunk of stream) {
    if (chunk.usage) heard.usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens];
    const delta = chunk.choices[0]?.delta ?? {};
    heard.text += delta.content ?? "";
    for (const call of delta.tool_calls ?? []) {
      heard.tool[0] += call.function.name ?? "";
      heard.tool[1] += call.function.arguments ?? "";
    }
  }
  return heard;
}

async function streamEcho(text) {
  let heard = "";
  const stream = await client.completions.create({
    model: spec.model,
    prompt: text,
    echo: true,
    max_tokens: most.echo,
    temperature: 0,
    stream: true,
  });
  for await (const chunk of stream) heard += chunk.choices[0].text;
  return heard;
}

const chat = await streamChat(most.chat);
const called = await streamChat(most.tool, {
  tools: [{ type: "function", function: spec.tool }],
  tool_choice: { type: "function", function: { name: spec.tool.name } },
});
const texts = [];
const echoes = [];
for (const text of spec.texts) {
  texts.push((await streamChat(most.text, { structured_outputs: { choice: [text] } })).text);
  echoes.push(await streamEcho(text));
}
console.log(
  JSON.stringify({ chat: chat.text, usage: chat.usage, tool: called.tool, texts, echoes }),
);
