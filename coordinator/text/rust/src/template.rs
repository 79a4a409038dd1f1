//! Chat templates: Jinja as transformers runs it, bounded in time, memory and the size of what it
//! writes.

use std::ffi::CString;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};

use anyhow::{anyhow, Context, Result};
use minijinja::value::{Serde, Value};
use minijinja::{escape_formatter, syntax::SyntaxConfig, Environment, Error, ErrorKind};
use regex::Regex;
use serde_json::Map;

use crate::border::{answer, build, destroy, ids_to_bytes, text_argument, TextBuffer};
use crate::conversation::{Conversation, Request};
use crate::python_json::tojson;
use crate::sandbox::run_bounded;
use crate::shield::Shield;
use crate::tokenizer::TextTokenizer;

// One unit an instruction. A conversation of a thousand messages takes some tens of thousands.
const MAX_INSTRUCTIONS: u64 = 5_000_000;
const MAX_OUTPUT_BYTES: usize = 32 << 20;
const MAX_RECURSION: usize = 100;

pub struct ChatTemplate {
    environment: Environment<'static>,
    variables: Map<String, serde_json::Value>,
    tokenizer: Arc<TextTokenizer>,
    shield: Shield,
}

impl ChatTemplate {
    pub fn new(
        source: &str,
        variables: Map<String, serde_json::Value>,
        tokenizer: Arc<TextTokenizer>,
    ) -> Result<Self> {
        let shield = Shield::new(&tokenizer, source)?;
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python_formatter);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        environment.set_recursion_limit(MAX_RECURSION);
        environment
            .add_template_owned("chat", without_generation_blocks(source))
            .map_err(template_error)?;
        Ok(ChatTemplate { environment, variables, tokenizer, shield })
    }

    /// The text of a conversation, client text as it is.
    pub fn render(&self, request: Request) -> Result<String> {
        let conversation = Conversation::new(request, &self.variables, None)?;
        self.render_conversation(&conversation)
    }

    /// The ids of a conversation; no client text becomes a control token.
    pub fn encode(&self, request: Request) -> Result<Vec<u32>> {
        let conversation = Conversation::new(request, &self.variables, Some(&self.shield))?;
        let rendered = self.render_conversation(&conversation)?;
        if rendered.contains(conversation.mark) {
            let controls = &self.shield.controls;
            return self.tokenizer.encode_marked(controls, &rendered, conversation.mark);
        }
        self.tokenizer.encode(&rendered, false)
    }

    fn render_conversation(&self, conversation: &Conversation) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(template_error)?;
        // Instructions and output are bounded, but a single one may double a string or compare two
        // lists of 2^40 items.
        let rendered = run_bounded("the chat template", || {
            let mut output = BoundedOutput { bytes: Vec::new(), full: false };
            let context = Value::from(Serde(&conversation.context));
            let result = template.render_captured_to(context, &mut output).map(|_| ());
            if output.full {
                return Err(anyhow!("the chat template writes more than {MAX_OUTPUT_BYTES} bytes"));
            }
            result.map_err(template_error)?;
            String::from_utf8(output.bytes).context("not valid UTF-8")
        })?;
        conversation.finish(rendered)
    }
}

struct BoundedOutput {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const RAISED: &str = "raised by the chat template: ";

/// What the template itself raised, without the machinery's words; the rest in one line.
fn template_error(error: Error) -> anyhow::Error {
    let detail = error.detail().unwrap_or_default();
    if let Some(raised) = detail.strip_prefix(RAISED) {
        return anyhow!("{raised}");
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return anyhow!("the chat template takes more than {MAX_INSTRUCTIONS} steps");
    }
    match error.line() {
        Some(line) => anyhow!("chat template, line {line}: {}: {detail}", error.kind()),
        None => anyhow!("chat template: {}: {detail}", error.kind()),
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// The local time now, by the C library's strftime, as Python's has it.
fn strftime_now(format: String) -> Result<String, Error> {
    if format.is_empty() {
        return Ok(String::new());
    }
    let bad = || Error::new(ErrorKind::InvalidOperation, "strftime_now: bad or too long format");
    let format = CString::new(format).map_err(|_| bad())?;
    let mut text = [0u8; 512];
    // SAFETY: every pointer is valid, and strftime writes at most text.len() bytes.
    let size = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local = std::mem::zeroed();
        libc::localtime_r(&now, &mut local);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &local)
    };
    if size == 0 {
        return Err(bad());
    }
    String::from_utf8(text[..size].to_vec()).map_err(|_| bad())
}

/// Python's words for what Jinja prints.
fn python_formatter(
    out: &mut minijinja::Output,
    state: &mut minijinja::State,
    value: &Value,
) -> Result<(), Error> {
    let word = match value.kind() {
        minijinja::value::ValueKind::None => "None",
        minijinja::value::ValueKind::Bool if value.is_true() => "True",
        minijinja::value::ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(word).map_err(Error::from)
}

/// `{% generation %}` blocks only matter in training: they become `{% if true %}` blocks.
fn without_generation_blocks(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern")
    });
    TAG.replace_all(source, |tag: &regex::Captures| {
        let body = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {body} {}%}}", &tag[1], &tag[3])
    })
    .into_owned()
}

/// `variables`: a JSON object, the special tokens by name. Null with a message when the source is
/// no template. The template keeps the tokenizer alive.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_template_new(
    tokenizer: &Arc<TextTokenizer>,
    source: *const u8,
    source_size: usize,
    variables: *const u8,
    variables_size: usize,
    out: *mut TextBuffer,
) -> *mut ChatTemplate {
    build(out, || {
        let variables = serde_json::from_str(text_argument(variables, variables_size)?)?;
        ChatTemplate::new(text_argument(source, source_size)?, variables, tokenizer.clone())
    })
}

/// # Safety
/// `template` came from `trireme_text_template_new`.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_template_free(template: *mut ChatTemplate) {
    destroy(template);
}

/// `request`: JSON of `conversation::Request`. Answers UTF-8.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_template_render(
    template: &ChatTemplate,
    request: *const u8,
    size: usize,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || {
        let request = serde_json::from_str(text_argument(request, size)?)?;
        Ok(template.render(request)?.into_bytes())
    })
}

/// As `trireme_text_template_render`, but answers int32 ids.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_template_encode(
    template: &ChatTemplate,
    request: *const u8,
    size: usize,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || {
        let request = serde_json::from_str(text_argument(request, size)?)?;
        Ok(ids_to_bytes(&template.encode(request)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::byte_level_tokenizer;
    use serde_json::json;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, Map::new(), Arc::new(byte_level_tokenizer())).unwrap()
    }

    fn request(content: &str, continue_final_message: bool) -> Request {
        serde_json::from_value(json!({
            "messages": [{"role": "user", "content": content}],
            "tools": null, "arguments": {},
            "add_generation_prompt": false, "continue_final_message": continue_final_message,
        }))
        .unwrap()
    }

    #[test]
    fn generation_blocks_keep_their_white_space_control() {
        let source = "a {%- generation %} b {% endgeneration -%} c";
        assert_eq!(without_generation_blocks(source), "a {%- if true %} b {% endif -%} c");
        assert_eq!(template(source).render(request("", false)).unwrap(), "a b c");
    }

    #[test]
    fn an_endless_template_runs_out_of_steps() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}\
                     {% endfor %}{% endfor %}";
        let error = template(loops).render(request("", false)).unwrap_err().to_string();
        assert_eq!(error, "the chat template takes more than 5000000 steps");
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(template(recursion).render(request("", false)).is_err());
    }

    #[test]
    fn an_endless_output_is_cut_off() {
        let source = "{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}";
        let error = template(source).render(request("", false)).unwrap_err().to_string();
        assert!(error.contains("writes more than"), "{error}");
    }

    #[test]
    fn what_grows_without_output_is_bounded() {
        let doubled = "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}\
                       {% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s | length }}";
        let repeated = "{% set n = namespace(l=[]) %}{% for i in range(90) %}\
                        {% set n.l = n.l + [('x' ~ i) * 9999999] %}{% endfor %}{{ n.l | length }}";
        let captured = "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}\
                        {% set s %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = s %}{% endfor %}";
        let replaced = "{{ ('x' * 99999) | replace('x', 'x' * 99999) | length }}";
        for source in [doubled, repeated, captured, replaced] {
            let error = template(source).render(request("", false)).unwrap_err().to_string();
            assert_eq!(error, "the chat template takes more than 256 MiB of memory", "{source}");
        }
    }

    #[test]
    fn one_endless_instruction_is_ended() {
        let deep = |name| {
            format!(
                "{{% set n = namespace(l=[1]) %}}{{% for i in range(60) %}}\
                 {{% set n.l = [n.l, n.l] %}}{{% endfor %}}{{% set {name} = n.l %}}"
            )
        };
        let source = format!("{}{}{{{{ a == b }}}}", deep("a"), deep("b"));
        let error = template(&source).render(request("", false)).unwrap_err().to_string();
        assert_eq!(error, "the chat template takes more than 2 s");
    }

    #[test]
    fn raised_messages_come_out_alone() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let error = template(source).render(request("", false)).unwrap_err().to_string();
        assert_eq!(error, "roles must alternate");
    }

    #[test]
    fn a_continued_message_ends_the_rendering() {
        let keeps = template("[{{ messages[0].content }}]");
        assert_eq!(keeps.render(request("so ", true)).unwrap(), "[so ");
        let trims = template("[{{ messages[0].content | trim }}]");
        assert_eq!(trims.render(request("so ", true)).unwrap(), "[so");
        assert!(template("[]").render(request("so", true)).is_err());
    }

    #[test]
    fn pieces_of_client_text_do_not_join_into_a_control_token() {
        let template = template("{{ messages[0].content }}nd|><|end|>{{ messages[0].content }}");
        let ids = template.encode(request("<|e", false)).unwrap();
        let mut expected: Vec<u32> = "<|end|>".bytes().map(u32::from).collect();
        expected.push(256);
        expected.extend("<|e".bytes().map(u32::from));
        assert_eq!(ids, expected);
    }
}
