//! A chat request made ready for the template, and the rendering cut where the model goes on.
//! The steps and their order are those of transformers' `apply_chat_template`.

use anyhow::{anyhow, bail, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::shield::{unused_characters, Shield};

/// What C++ sends (ChatTemplate::render in chat_template.cpp).
#[derive(Deserialize)]
pub struct Request {
    pub messages: Vec<Map<String, Value>>,
    pub tools: Value,
    pub arguments: Map<String, Value>,
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
}

pub struct Conversation {
    /// The variables of the template.
    pub context: Map<String, Value>,
    /// In client text, breaks up what must not become a control token. The rendering may have none.
    pub mark: char,
    /// Ends the text of the final message, when that is to be continued.
    cursor: Option<char>,
}

// Names that messages carry reasoning under; templates read one or another.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Conversation {
    /// `variables` are the special tokens by name (`bos_token`, ...).
    pub fn new(
        request: Request,
        variables: &Map<String, Value>,
        shield: Option<&Shield>,
    ) -> Result<Self> {
        let [mark, cursor] = unused_characters(all_strings(&request).into_iter())?;
        let mut messages: Vec<Value> =
            request.messages.into_iter().map(|message| Value::Object(tidy(message))).collect();
        let (mut tools, mut arguments) = (request.tools, Value::Object(request.arguments));
        if let Some(shield) = shield {
            for message in &mut messages {
                shield.mark_message(message, mark)?;
            }
            shield.mark_data(&mut tools, mark)?;
            shield.mark_data(&mut arguments, mark)?;
        }
        if request.continue_final_message {
            append_cursor(messages.last_mut(), cursor)?;
        }
        let mut context = variables.clone();
        context.insert("documents".to_string(), Value::Null);
        if let Value::Object(arguments) = arguments {
            context.extend(arguments);
        }
        context.insert("messages".to_string(), Value::Array(messages));
        context.insert("tools".to_string(), tools);
        context.insert("add_generation_prompt".to_string(), request.add_generation_prompt.into());
        Ok(Conversation { context, mark, cursor: request.continue_final_message.then_some(cursor) })
    }

    /// Cuts the rendering after the final message's text when that is to be continued.
    pub fn finish(&self, mut rendered: String) -> Result<String> {
        let Some(cursor) = self.cursor else {
            return Ok(rendered);
        };
        let Some(place) = rendered.rfind(cursor) else {
            bail!("continue_final_message: the chat template leaves out the final message");
        };
        // A trimming template has eaten the space after the cursor, so it trims the message as
        // well.
        let trims = !rendered[place + cursor.len_utf8()..].starts_with(' ');
        rendered.truncate(place);
        if trims {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }
}

/// Fields that are null are as good as missing; reasoning gets every name that templates know.
fn tidy(message: Map<String, Value>) -> Map<String, Value> {
    let mut message: Map<String, Value> =
        message.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name)).cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert(REASONING[0].to_string(), reasoning);
    }
    message
}

fn append_cursor(message: Option<&mut Value>, cursor: char) -> Result<()> {
    let text = match message.and_then(|message| message.get_mut("content")) {
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => {
            parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
                Some(Value::String(text)) => Some(text),
                _ => None,
            })
        }
        _ => None,
    };
    let text = text.ok_or_else(|| {
        anyhow!("continue_final_message: the final message has no text to continue")
    })?;
    text.push(cursor);
    text.push(' ');
    Ok(())
}

fn all_strings(request: &Request) -> Vec<&str> {
    let mut strings = Vec::new();
    for message in &request.messages {
        collect_fields(message, &mut strings);
    }
    collect(&request.tools, &mut strings);
    collect_fields(&request.arguments, &mut strings);
    strings
}

fn collect<'a>(value: &'a Value, strings: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => strings.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, strings)),
        Value::Object(fields) => collect_fields(fields, strings),
        _ => {}
    }
}

fn collect_fields<'a>(fields: &'a Map<String, Value>, strings: &mut Vec<&'a str>) {
    for (key, value) in fields {
        strings.push(key);
        collect(value, strings);
    }
}
