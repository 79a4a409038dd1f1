//! A limit of what `multipleOf` in a JSON schema may ask for.
//!
//! llguidance makes an automaton with about as many states as the value has units of its last
//! decimal place, and asks without a limit whether it takes anything at all: for 2547850.5 that is
//! half a minute. Schemas that are merged (`allOf`) get the least common multiple of their values.

use anyhow::{bail, Result};
use serde_json::{Deserializer, Value};

/// The product of two such numbers fits the u32 that llguidance computes the least common multiple
/// in; an automaton of that size takes some 0.5 s.
const MOST_UNITS: u64 = 65_535;
const MOST_DECIMALS: i32 = 9;

/// Refuses schemas, and grammars with schemas in them, of which any part would be too large.
pub fn check(tag: &str, grammar: &str) -> Result<()> {
    match tag {
        "json_schema" => match serde_json::from_str(grammar) {
            Ok(schema) => check_schema(&schema),
            Err(_) => Ok(()), // llguidance says what is wrong
        },
        "lark" => check_lark(grammar),
        _ => Ok(()),
    }
}

fn check_lark(grammar: &str) -> Result<()> {
    const INTRODUCER: &str = "%json";
    let mut rest = grammar;
    while let Some(at) = rest.find(INTRODUCER) {
        rest = &rest[at + INTRODUCER.len()..];
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        if let Some(Ok(schema)) = values.next() {
            check_schema(&schema)?;
            rest = &rest[values.byte_offset()..];
        }
    }
    Ok(())
}

fn check_schema(schema: &Value) -> Result<()> {
    let mut found = Vec::new();
    collect(schema, &mut found);
    let decimals = found.iter().map(|value| decimals_of(*value)).max().unwrap_or(0);
    let mut common = 1;
    for value in found {
        let units = (value * 10f64.powi(decimals)).round();
        if units >= 1.0 && units <= MOST_UNITS as f64 {
            common = least_common_multiple(common, units as u64);
        }
        if units > MOST_UNITS as f64 || common > MOST_UNITS {
            bail!(
                "multipleOf {value}: the values of multipleOf in a schema must have a common \
                 multiple of at most {MOST_UNITS} units of their last decimal place; leave it out \
                 and check the number when it is there"
            );
        }
    }
    Ok(())
}

/// Values of `multipleOf` anywhere below. The JSON parser bounds the depth.
fn collect(schema: &Value, found: &mut Vec<f64>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_f64() {
                    Some(number) if name == "multipleOf" => found.push(number),
                    _ => collect(value, found),
                }
            }
        }
        _ => {}
    }
}

fn decimals_of(value: f64) -> i32 {
    let is_whole = |places: &i32| (value * 10f64.powi(*places)).fract() == 0.0;
    (0..MOST_DECIMALS).find(is_whole).unwrap_or(MOST_DECIMALS)
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::check;

    fn refused(tag: &str, grammar: &str) -> bool {
        check(tag, grammar).is_err()
    }

    #[test]
    fn usual_values_pass() {
        for schema in [
            r#"{"multipleOf": 0.01}"#,
            r#"{"multipleOf": 65535}"#,
            r#"{"anyOf": [{"multipleOf": 5}, {"multipleOf": 100}, {"multipleOf": 1000.0}]}"#,
            r#"{"properties": {"multipleOf": {"type": "number"}}}"#,
            r#"{"multipleOf": 0}"#,
            r#"{"multipleOf": -1e9}"#, // llguidance refuses it
            "no JSON",
        ] {
            assert!(!refused("json_schema", schema), "{schema}");
        }
    }

    #[test]
    fn large_automata_are_refused() {
        for schema in [
            r#"{"multipleOf": 65536}"#,
            r#"{"multipleOf": 2547850.5}"#,
            r#"{"multipleOf": 1e300}"#,
            r#"{"multiple\u004ff": 70000}"#,
            r#"{"multipleOf": 0.1234567}"#,
            r#"[{"a": {"multipleOf": 257}}, {"allOf": [{"multipleOf": 256}]}]"#,
            r#"{"allOf": [{"multipleOf": 0.00001}, {"multipleOf": 1}]}"#,
        ] {
            assert!(refused("json_schema", schema), "{schema}");
            let lark = format!("start: \"%json\" | a\na: %json {schema}\nb: /x/\n");
            assert!(refused("lark", &lark), "{lark}");
        }
    }

    #[test]
    fn only_schemas_are_read() {
        assert!(!refused("regex", r#"{"multipleOf": 99999}"#));
        assert!(!refused("lark", "start: \"multipleOf\" /99999/ # %json {"));
    }
}
