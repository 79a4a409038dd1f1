//! Tiny tokenizers for the unit tests.

use serde_json::{json, Map, Value};

use crate::tokenizer::TextTokenizer;

/// The character that byte-level tokenizers write for a byte (printable bytes stand for
/// themselves).
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + rank).expect("a valid character")
}

fn special(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

/// Ids 0..=255 are the bytes; 256 and up are `<|end|>`, `<|user|>` and, not special, `<tool>`.
pub fn byte_level_json() -> Value {
    let vocab: Map<String, Value> =
        (0..=255u8).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
    let mut tool = special(258, "<tool>");
    tool["special"] = json!(false);
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<|end|>"), special(257, "<|user|>"), tool],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": []},
    })
}

pub fn byte_level_tokenizer() -> TextTokenizer {
    TextTokenizer::from_json(byte_level_json().to_string().as_bytes()).expect("a good tokenizer")
}

/// `</s>` is special and, as in real unigram models, also a piece of the model.
pub fn unigram_tokenizer() -> TextTokenizer {
    let pieces = ["<unk>", "</s>", "a", "<", "/", "s", ">"];
    let vocab: Vec<Value> = pieces.iter().map(|piece| json!([piece, -1.0])).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false},
    });
    TextTokenizer::from_json(json.to_string().as_bytes()).expect("a good tokenizer")
}
