//! JSON as Python's `json.dumps` writes it, which is what chat templates are trained on.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The `tojson` filter of chat templates: `ensure_ascii`, `indent`, `separators` and `sort_keys` as
/// `json.dumps` has them, and no HTML escapes.
pub fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let ensure_ascii: bool = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: bool = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;

    let mut json = serde_json::to_value(value).map_err(bad)?;
    if sort_keys {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    match indent.filter(|width| *width <= MAX_INDENT) {
        Some(width) => {
            let spaces = vec![b' '; width];
            let formatter = PrettyFormatter::with_indent(&spaces);
            json.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).map_err(bad)?;
        }
        None => {
            let formatter = Separated::new(separators)?;
            json.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).map_err(bad)?;
        }
    }
    let text = String::from_utf8(bytes).expect("JSON is UTF-8");
    Ok(Value::from_safe_string(if ensure_ascii { escape_non_ascii(&text) } else { text }))
}

// Wider ones are no real template's, and cost memory.
const MAX_INDENT: usize = 16;

fn bad(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

struct Separated {
    item: String,
    key: String,
}

impl Separated {
    fn new(separators: Option<Vec<String>>) -> Result<Self, Error> {
        let Some(separators) = separators else {
            return Ok(Separated { item: ", ".to_string(), key: ": ".to_string() });
        };
        let [item, key]: [String; 2] = separators.try_into().map_err(|_| {
            Error::new(ErrorKind::InvalidOperation, "tojson: separators are a pair of strings")
        })?;
        Ok(Separated { item, key })
    }
}

impl Formatter for Separated {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { self.item.as_bytes() })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { self.item.as_bytes() })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

fn escape_non_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    fn render(template: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment.render_str(template, ()).unwrap()
    }

    #[test]
    fn writes_what_python_writes() {
        assert_eq!(
            render("{{ {'b': [1, 2.5], 'a': '<é>'} | tojson }}"),
            r#"{"b": [1, 2.5], "a": "<é>"}"#
        );
        assert_eq!(
            render("{{ {'b': 1, 'a': none} | tojson(sort_keys=true) }}"),
            r#"{"a": null, "b": 1}"#
        );
        assert_eq!(render("{{ [1, {}] | tojson(indent=2) }}"), "[\n  1,\n  {}\n]");
        assert_eq!(render("{{ [1, 2] | tojson(separators=(',', ':')) }}"), "[1,2]");
        assert_eq!(render("{{ 'é😀' | tojson(ensure_ascii=true) }}"), r#""\u00e9\ud83d\ude00""#);
    }
}
