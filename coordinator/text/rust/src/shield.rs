//! Keeps what clients write from becoming control tokens.
//!
//! A control token is an added token that is special, or that the chat template itself writes (role
//! markers and tool tags are not always flagged special). Before rendering, a private-use
//! character, the mark, is put into client text wherever a control token stands, and at its ends
//! where it could complete one together with its neighbours. A marked token is no token, the
//! template's own are, and `TextTokenizer::encode_marked` takes the marks out again. Text without
//! marks is encoded as ever.

use std::collections::{BTreeSet, HashSet};

use aho_corasick::AhoCorasick;
use anyhow::{bail, Result};
use serde_json::Value;

use crate::tokenizer::{Controls, TextTokenizer};

pub struct Shield {
    pub controls: Controls,
    /// For the text of users, systems and tools.
    all: Tokens,
    /// For the text of assistants: tags such as `</think>` that templates look for stay whole
    /// there.
    special: Tokens,
}

impl Shield {
    pub fn new(tokenizer: &TextTokenizer, template_source: &str) -> Result<Self> {
        let mut controls = Controls::new();
        let mut special = Vec::new();
        for (id, token) in tokenizer.hf.get_added_tokens_decoder() {
            if token.content.trim().is_empty() {
                continue;
            }
            if token.special {
                special.push(token.content.clone());
            } else if !template_source.contains(&token.content) || is_word(&token.content) {
                continue;
            }
            controls.insert(id, token.content);
        }
        let all = Tokens::new(controls.values().cloned().collect())?;
        Ok(Shield { controls, all, special: Tokens::new(special)? })
    }

    /// Marks every string of one chat message.
    pub fn mark_message(&self, message: &mut Value, mark: char) -> Result<()> {
        let from_model = message["role"] == "assistant";
        mark_strings(message, if from_model { &self.special } else { &self.all }, mark)
    }

    /// Marks every string of tools and template arguments.
    pub fn mark_data(&self, data: &mut Value, mark: char) -> Result<()> {
        mark_strings(data, &self.all, mark)
    }
}

fn is_word(text: &str) -> bool {
    text.chars().all(char::is_alphanumeric)
}

fn mark_strings(value: &mut Value, tokens: &Tokens, mark: char) -> Result<()> {
    match value {
        Value::String(text) => {
            if let Some(marked) = tokens.mark(text, mark, true)? {
                *text = marked;
            }
        }
        Value::Array(items) => {
            for item in items {
                mark_strings(item, tokens, mark)?;
            }
        }
        Value::Object(fields) => {
            for field in fields.values_mut() {
                mark_strings(field, tokens, mark)?;
            }
            for key in fields.keys().cloned().collect::<Vec<_>>() {
                // Keys are what templates look up: only whole tokens are broken up in them.
                if let Some(marked) = tokens.mark(&key, mark, false)? {
                    let field = fields.shift_remove(&key).expect("the key was listed");
                    fields.insert(marked, field);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// A set of token texts, ready to be looked for.
struct Tokens {
    whole: AhoCorasick,
    /// Proper beginnings and endings of the tokens, but for those of white space, which templates
    /// trim.
    beginnings: HashSet<String>,
    endings: HashSet<String>,
    longest: usize,
}

impl Tokens {
    fn new(tokens: Vec<String>) -> Result<Self> {
        let mut beginnings = HashSet::new();
        let mut endings = HashSet::new();
        for token in &tokens {
            for (cut, _) in token.char_indices().skip(1) {
                let (beginning, ending) = token.split_at(cut);
                if beginning.trim_end().len() == beginning.len() {
                    beginnings.insert(beginning.to_string());
                }
                if ending.trim_start().len() == ending.len() {
                    endings.insert(ending.to_string());
                }
            }
        }
        let longest = tokens.iter().map(String::len).max().unwrap_or(0);
        Ok(Tokens { whole: AhoCorasick::new(&tokens)?, beginnings, endings, longest })
    }

    /// The text with marks, None when it needs none. A token of one character cannot be broken up.
    fn mark(&self, text: &str, mark: char, ends: bool) -> Result<Option<String>> {
        let mut places = BTreeSet::new();
        for found in self.whole.find_overlapping_iter(text) {
            let first_char = text[found.start()..].chars().next().map_or(0, char::len_utf8);
            if first_char == found.len() {
                bail!("the control token '{}' cannot be part of a message", &text[found.range()]);
            }
            places.insert(found.start() + first_char);
        }
        if ends && self.begins_with_an_ending(text) {
            places.insert(0);
        }
        if ends && self.ends_with_a_beginning(text) {
            places.insert(text.len());
        }
        if places.is_empty() {
            return Ok(None);
        }
        let mut marked = String::with_capacity(text.len() + places.len() * mark.len_utf8());
        let mut from = 0;
        for place in places {
            marked.push_str(&text[from..place]);
            marked.push(mark);
            from = place;
        }
        marked.push_str(&text[from..]);
        Ok(Some(marked))
    }

    fn begins_with_an_ending(&self, text: &str) -> bool {
        let longest = self.longest.min(text.len() + 1);
        (1..longest).any(|size| text.get(..size).is_some_and(|head| self.endings.contains(head)))
    }

    fn ends_with_a_beginning(&self, text: &str) -> bool {
        let longest = self.longest.min(text.len() + 1);
        (1..longest).any(|size| {
            text.get(text.len() - size..).is_some_and(|tail| self.beginnings.contains(tail))
        })
    }
}

/// Two private-use characters that occur in none of the texts.
pub fn unused_characters<'a>(texts: impl Iterator<Item = &'a str>) -> Result<[char; 2]> {
    let private = |c: &char| matches!(c, '\u{e000}'..='\u{f8ff}');
    let used: HashSet<char> = texts.flat_map(str::chars).filter(private).collect();
    let mut free = ('\u{e000}'..='\u{f8ff}').filter(|c| !used.contains(c));
    match (free.next(), free.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => bail!("the messages use every private-use character (U+E000 to U+F8FF)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::byte_level_tokenizer;
    use serde_json::json;

    fn marked(texts: &[&str], text: &str) -> Option<String> {
        let tokens = Tokens::new(texts.iter().map(ToString::to_string).collect()).unwrap();
        tokens.mark(text, '#', true).unwrap()
    }

    #[test]
    fn whole_tokens_are_broken_up_even_when_they_overlap() {
        assert_eq!(marked(&["<a>", "a><b"], "x<a><b"), Some("x<#a#><b".to_string()));
        assert_eq!(marked(&["[INST]"], "plain"), None);
    }

    #[test]
    fn ends_that_could_complete_a_token_are_marked() {
        assert_eq!(marked(&["<|end|>"], "a<|e"), Some("a<|e#".to_string()));
        assert_eq!(marked(&["<|end|>"], "nd|> b"), Some("#nd|> b".to_string()));
        assert_eq!(marked(&["<|end|>"], "end"), None);
        assert_eq!(marked(&["\n<x>"], "line\n"), None);
    }

    #[test]
    fn a_token_of_one_character_is_refused() {
        let tokens = Tokens::new(vec!["§".to_string()]).unwrap();
        assert!(tokens.mark("see §3", '#', true).is_err());
    }

    #[test]
    fn assistants_keep_the_tags_that_the_template_writes() {
        let shield = Shield::new(&byte_level_tokenizer(), "{{ x }}<tool>").unwrap();
        let mut message = json!({"role": "assistant", "content": "<tool><|end|>"});
        shield.mark_message(&mut message, '#').unwrap();
        assert_eq!(message["content"], "<tool><#|end|>");
        let mut message = json!({"role": "user", "content": [{"text": "<tool>"}], "<|end|>": 1});
        shield.mark_message(&mut message, '#').unwrap();
        assert_eq!(
            message,
            json!({"role": "user", "content": [{"text": "<#tool>"}], "<#|end|>": 1})
        );
    }

    #[test]
    fn unused_characters_are_unused() {
        assert_eq!(
            unused_characters(["a\u{e000}", "\u{e002}"].into_iter()).unwrap(),
            ['\u{e001}', '\u{e003}']
        );
        let all: String = ('\u{e000}'..='\u{f8ff}').collect();
        assert!(unused_characters([all.as_str()].into_iter()).is_err());
    }
}
