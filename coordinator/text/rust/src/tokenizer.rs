//! Hugging Face tokenizers: ids from text, text from ids, and text whose special tokens are only
//! text.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{anyhow, Context, Result};
use tokenizers::{AddedVocabulary, Model, OffsetType, PreTokenizer, Token, Tokenizer};

use crate::border::{self, answer, build, destroy, ids_to_bytes, text_argument, TextBuffer};

/// Token ids that text must never become, with the text of each.
pub type Controls = HashMap<u32, String>;

pub struct TextTokenizer {
    pub hf: Tokenizer,
    /// The same added vocabulary, told to take special tokens for ordinary text.
    without_special: AddedVocabulary,
    special: Controls,
}

/// The tokenizers crate boxes its errors without Sync; only their text is of use here.
fn message(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("{error}")
}

impl TextTokenizer {
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut hf = Tokenizer::from_bytes(json).map_err(message)?;
        // Prompts are cut and padded by the engine's own rules, never silently here.
        hf.with_truncation(None).map_err(message)?;
        hf.with_padding(None);
        let mut without_special = hf.get_added_vocabulary().clone();
        without_special.set_encode_special_tokens(true);
        let special = hf
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        Ok(TextTokenizer { hf, without_special, special })
    }

    /// Special tokens written in `text` become control tokens: for trusted text only.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.hf.encode_fast(text, add_special_tokens).map_err(message)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Special tokens written in `text` stay text.
    pub fn encode_as_text(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.encode_guarded(&self.without_special, &self.special, text, None, add_special_tokens)
    }

    /// Encodes text in which `mark` breaks up what must not become a control token. The marks are
    /// taken out after the control tokens are found and before anything else looks at the text, so
    /// the ids are those of the unmarked text with those control tokens left as text.
    pub fn encode_marked(&self, controls: &Controls, text: &str, mark: char) -> Result<Vec<u32>> {
        self.encode_guarded(self.hf.get_added_vocabulary(), controls, text, Some(mark), false)
    }

    // The steps of Tokenizer::encode, with a chosen added vocabulary and the marks taken out.
    fn encode_guarded(
        &self,
        added: &AddedVocabulary,
        controls: &Controls,
        text: &str,
        mark: Option<char>,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>> {
        let mut pieces = added.extract_and_normalize(self.hf.get_normalizer(), text);
        if let Some(mark) = mark {
            pieces
                .split(|_, mut piece| {
                    piece.filter(|c| c != mark);
                    Ok(std::iter::once(piece))
                })
                .map_err(message)?;
        }
        if let Some(pre_tokenizer) = self.hf.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(message)?;
        }
        let model = self.hf.get_model();
        pieces.tokenize(|piece| tokenize_as_text(model, piece.get(), controls)).map_err(message)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(message)?;
        let encoding = self.hf.post_process(encoding, None, add_special_tokens).map_err(message)?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.hf.decode(ids, skip_special_tokens).map_err(message)
    }
}

/// The model's tokens of `text`, none of them a control token: unigram models have their control
/// tokens among the pieces and would find them in plain text. Such a piece is cut in two.
fn tokenize_as_text(
    model: &impl Model,
    text: &str,
    controls: &Controls,
) -> tokenizers::Result<Vec<Token>> {
    let tokens = model.tokenize(text)?;
    let hits: Vec<&Token> = tokens
        .iter()
        .filter(|token| {
            let content = controls.get(&token.id).map(String::as_str);
            content.is_some() && text.get(token.offsets.0..token.offsets.1) == content
        })
        .collect();
    // The middle one, so that the depth stays logarithmic in their number.
    let Some(hit) = hits.get(hits.len() / 2) else {
        return Ok(tokens);
    };
    let first_char = text[hit.offsets.0..].chars().next().map_or(0, char::len_utf8);
    let cut = hit.offsets.0 + first_char;
    if cut >= hit.offsets.1 {
        return Err(format!("the control token '{}' cannot be encoded as text", hit.value).into());
    }
    let mut pieces = tokenize_as_text(model, &text[..cut], controls)?;
    pieces.extend(tokenize_as_text(model, &text[cut..], controls)?);
    Ok(pieces)
}

/// Null with a message when the file cannot be read or is not a tokenizer.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_tokenizer_new(
    path: *const u8,
    path_size: usize,
    out: *mut TextBuffer,
) -> *mut Arc<TextTokenizer> {
    build(out, || {
        let json =
            std::fs::read(text_argument(path, path_size)?).context("cannot read the file")?;
        Ok(Arc::new(TextTokenizer::from_json(&json)?))
    })
}

/// # Safety
/// `tokenizer` came from `trireme_text_tokenizer_new`.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_tokenizer_free(tokenizer: *mut Arc<TextTokenizer>) {
    destroy(tokenizer);
}

/// Number of tokens, the added ones included.
#[no_mangle]
pub extern "C" fn trireme_text_vocab_size(tokenizer: &Arc<TextTokenizer>) -> usize {
    tokenizer.hf.get_vocab_size(true)
}

/// The id of a token by its exact text, -1 when there is none.
///
/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_token_id(
    tokenizer: &Arc<TextTokenizer>,
    text: *const u8,
    size: usize,
) -> i64 {
    let Ok(text) = text_argument(text, size) else { return -1 };
    tokenizer.hf.token_to_id(text).map_or(-1, i64::from)
}

/// Answers int32 ids.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_encode(
    tokenizer: &Arc<TextTokenizer>,
    text: *const u8,
    size: usize,
    add_special_tokens: bool,
    special_as_text: bool,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || {
        let text = text_argument(text, size)?;
        let ids = if special_as_text {
            tokenizer.encode_as_text(text, add_special_tokens)?
        } else {
            tokenizer.encode(text, add_special_tokens)?
        };
        Ok(ids_to_bytes(&ids))
    })
}

/// Answers UTF-8; unknown ids are left out, bytes that are no UTF-8 become U+FFFD.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_decode(
    tokenizer: &Arc<TextTokenizer>,
    ids: *const u32,
    n_ids: usize,
    skip_special_tokens: bool,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || {
        let ids = border::slice_argument(ids, n_ids);
        Ok(tokenizer.decode(ids, skip_special_tokens)?.into_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{byte_level_tokenizer, unigram_tokenizer};

    #[test]
    fn special_tokens_become_control_tokens_only_where_they_may() {
        let tokenizer = byte_level_tokenizer();
        assert_eq!(tokenizer.encode("a<|end|>", false).unwrap(), [97, 256]);
        let ids = tokenizer.encode_as_text("a<|end|>", false).unwrap();
        assert_eq!(ids, "a<|end|>".bytes().map(u32::from).collect::<Vec<_>>());
    }

    #[test]
    fn marks_leave_no_trace_but_the_missing_control_token() {
        let tokenizer = byte_level_tokenizer();
        let controls = Controls::from([(256, "<|end|>".to_string())]);
        let ids = tokenizer.encode_marked(&controls, "<\u{e000}|end|><|end|>", '\u{e000}').unwrap();
        let mut expected: Vec<u32> = "<|end|>".bytes().map(u32::from).collect();
        expected.push(256);
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_control_token_among_unigram_pieces_is_cut() {
        let tokenizer = unigram_tokenizer();
        let end = tokenizer.hf.token_to_id("</s>").unwrap();
        assert_eq!(tokenizer.hf.get_model().tokenize("a</s>").unwrap().last().unwrap().id, end);
        let ids = tokenizer.encode_as_text(&"a</s>".repeat(50), false).unwrap();
        assert!(!ids.contains(&end));
        assert_eq!(ids.len(), 50 * 5);
    }

    #[test]
    fn a_broken_file_is_an_error() {
        assert!(TextTokenizer::from_json(b"{\"version\": \"1.0\"").is_err());
        assert!(TextTokenizer::from_json(b"{}").is_err());
    }
}
