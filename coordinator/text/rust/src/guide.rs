//! Grammars: which tokens may come next, by llguidance.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{anyhow, bail, Result};
use llguidance::{api::TopLevelGrammar, token_bytes_from_tokenizer_json, Matcher, ParserFactory};
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::border::{answer, build, destroy, slice_argument, text_argument, TextBuffer};
use crate::multiples;
use crate::tokenizer::TextTokenizer;

/// The tokenizer as llguidance sees it.
struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.greedy_tokenize(bytes)
    }

    // Where the grammar leaves no choice, the model still chooses among the tokens that say it.
    // llguidance would tokenize all that is forced, at each step: 60 ms for a constant of 200 KB.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// Grammars compiled before, the latest last: a request's is compiled when it is checked, and a
/// guide is made of it once for each of its choices, for which a group of ranks may wait.
#[derive(Default)]
struct Compiled {
    entries: VecDeque<(String, String, Matcher)>, // tag, grammar, at its beginning
    n_bytes: usize,                               // of the grammars
}

impl Compiled {
    const MAX_ENTRIES: usize = 64;
    const MAX_BYTES: usize = 4 << 20;

    fn find(&self, tag: &str, grammar: &str) -> Option<Matcher> {
        let same = |entry: &&(String, String, Matcher)| entry.0 == tag && entry.1 == grammar;
        self.entries.iter().find(same).map(|entry| entry.2.deep_clone())
    }

    fn add(&mut self, tag: &str, grammar: &str, matcher: Matcher) {
        self.n_bytes += grammar.len();
        self.entries.push_back((tag.to_string(), grammar.to_string(), matcher));
        while self.entries.len() > Self::MAX_ENTRIES || self.n_bytes > Self::MAX_BYTES {
            let Some((_, oldest, _)) = self.entries.pop_front() else { break };
            self.n_bytes -= oldest.len();
        }
    }
}

pub struct GuideFactory {
    parsers: ParserFactory,
    end_tokens: Arc<[u32]>,
    compiled: Mutex<Compiled>,
}

impl GuideFactory {
    /// `padded_vocab_size`: the columns of the model's logits, which may be more than the tokens.
    fn new(
        tokenizer: &TextTokenizer,
        padded_vocab_size: u32,
        end_tokens: &[u32],
    ) -> Result<Self> {
        if end_tokens.is_empty() || end_tokens.iter().any(|id| *id >= padded_vocab_size) {
            bail!("the end tokens {end_tokens:?} are not in a vocabulary of {padded_vocab_size}");
        }
        let json = serde_json::to_value(&tokenizer.hf)?;
        let mut token_bytes = token_bytes_from_tokenizer_json(&json)?;
        if token_bytes.len() > padded_vocab_size as usize {
            bail!("{} tokens in a vocabulary of {padded_vocab_size}", token_bytes.len());
        }
        token_bytes.resize(padded_vocab_size as usize, Vec::new());
        let info = TokRxInfo::new(padded_vocab_size, end_tokens[0]);
        let trie = TokTrie::from(&info, &token_bytes).with_eos_tokens(end_tokens);
        let environment: TokEnv = Arc::new(Vocabulary { trie });
        let mut parsers = ParserFactory::new_simple(&environment)?;
        parsers.quiet();
        // Errors go to clients: no parser state in them.
        parsers.limits_mut().verbose_errors = false;
        // 1 to 2 KiB each, for every guide: a grammar of 24 bytes can make as many as it may.
        parsers.limits_mut().max_lexer_states = 50_000;
        Ok(GuideFactory { parsers, end_tokens: end_tokens.into(), compiled: Mutex::default() })
    }

    fn guide(&self, tag: &str, grammar: &str) -> Result<Guide> {
        let known = self.compiled().find(tag, grammar);
        let matcher = match known {
            Some(matcher) => matcher,
            None => self.compile(tag, grammar)?,
        };
        Ok(Guide { matcher, end_tokens: self.end_tokens.clone() })
    }

    fn compile(&self, tag: &str, grammar: &str) -> Result<Matcher> {
        multiples::check(tag, grammar)?;
        let parsed = TopLevelGrammar::from_tagged_str(tag, grammar)?;
        let matcher = Matcher::new(Ok(self.parsers.create_parser(parsed)?));
        self.compiled().add(tag, grammar, matcher.deep_clone());
        Ok(matcher)
    }

    /// What a panic left behind is whole: entries are added in one piece.
    fn compiled(&self) -> MutexGuard<'_, Compiled> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Guide {
    matcher: Matcher,
    end_tokens: Arc<[u32]>,
}

impl Guide {
    /// True once the grammar has ended. llguidance takes no token after that, not even an end
    /// token, which is what follows as a rule: that one is let through.
    fn push(&mut self, token: u32) -> Result<bool> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            if !self.end_tokens.contains(&token) {
                bail!("token {token} comes after the end of the grammar");
            }
            return Ok(true);
        }
        // What a complement (`~ /a/`) leaves open takes these, which no mask allows.
        let environment = self.matcher.tok_env()?;
        if matches!(environment.tok_trie().token(token), [] | [TokTrie::SPECIAL_TOKEN_MARKER]) {
            bail!("token {token} is no part of any text");
        }
        self.matcher.consume_token(token)?;
        Ok(self.matcher.is_stopped())
    }

    /// One bit a token, set when it may come next; the end tokens alone after the end.
    fn mask(&mut self, words: &mut [u32]) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos()?;
        let bits = mask.as_slice();
        if bits.len() < words.len() {
            bail!("{} words asked for, the vocabulary has {}", words.len(), bits.len());
        }
        words.copy_from_slice(&bits[..words.len()]);
        Ok(())
    }
}

/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_factory_new(
    tokenizer: &Arc<TextTokenizer>,
    padded_vocab_size: u32,
    end_tokens: *const u32,
    n_end_tokens: usize,
    out: *mut TextBuffer,
) -> *mut GuideFactory {
    build(out, || {
        let end_tokens = slice_argument(end_tokens, n_end_tokens);
        GuideFactory::new(tokenizer, padded_vocab_size, end_tokens)
    })
}

/// # Safety
/// `factory` came from `trireme_text_guide_factory_new`.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_factory_free(factory: *mut GuideFactory) {
    destroy(factory);
}

/// Null with a message when the grammar is refused.
///
/// # Safety
/// Pointers are valid for their sizes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_new(
    factory: &GuideFactory,
    tag: *const u8,
    tag_size: usize,
    grammar: *const u8,
    grammar_size: usize,
    out: *mut TextBuffer,
) -> *mut Guide {
    build(out, || {
        factory.guide(text_argument(tag, tag_size)?, text_argument(grammar, grammar_size)?)
    })
}

/// # Safety
/// `guide` came from `trireme_text_guide_new`.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_free(guide: *mut Guide) {
    destroy(guide);
}

/// Fills `words` (32 tokens each) with the mask of the next token.
///
/// # Safety
/// `words` points at `n_words` writable words; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_mask(
    guide: &mut Guide,
    words: *mut u32,
    n_words: usize,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || {
        if words.is_null() {
            return Err(anyhow!("no place for the mask"));
        }
        guide.mask(std::slice::from_raw_parts_mut(words, n_words))?;
        Ok(Vec::new())
    })
}

/// Answers one byte: 1 once the grammar has ended, else 0.
///
/// # Safety
/// `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_guide_push(
    guide: &mut Guide,
    token: u32,
    out: *mut TextBuffer,
) -> i32 {
    answer(out, || Ok(vec![u8::from(guide.push(token)?)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::byte_level_tokenizer;

    const PADDED: u32 = 300;
    const END: u32 = 256;

    fn guide(tag: &str, grammar: &str) -> Guide {
        let tokenizer = byte_level_tokenizer();
        GuideFactory::new(&tokenizer, PADDED, &[END, 257]).unwrap().guide(tag, grammar).unwrap()
    }

    fn allowed(guide: &mut Guide) -> Vec<u32> {
        let mut words = [0u32; PADDED.div_ceil(32) as usize];
        guide.mask(&mut words).unwrap();
        (0..PADDED).filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
    }

    #[test]
    fn masks_follow_the_grammar_to_its_end_and_beyond() {
        let mut guide = guide("regex", "ab|ac");
        assert_eq!(allowed(&mut guide), [u32::from(b'a')]);
        assert!(!guide.push(u32::from(b'a')).unwrap());
        assert_eq!(allowed(&mut guide), [u32::from(b'b'), u32::from(b'c')]);
        guide.push(u32::from(b'c')).unwrap();
        assert_eq!(allowed(&mut guide), [END, 257]);
        assert!(guide.push(END).unwrap());
        assert!(guide.push(END).unwrap());
        assert!(guide.push(u32::from(b'a')).is_err());
        assert_eq!(allowed(&mut guide), [END, 257]);
    }

    #[test]
    fn guides_of_one_grammar_know_nothing_of_each_other() {
        let tokenizer = byte_level_tokenizer();
        let factory = GuideFactory::new(&tokenizer, PADDED, &[END]).unwrap();
        let mut first = factory.guide("regex", "ab|cd").unwrap();
        first.push(u32::from(b'c')).unwrap();
        let mut second = factory.guide("regex", "ab|cd").unwrap();
        assert_eq!(allowed(&mut second), [u32::from(b'a'), u32::from(b'c')]);
        assert_eq!(allowed(&mut first), [u32::from(b'd')]);
        for i in 0..100 {
            factory.guide("regex", &format!("x{i}")).unwrap();
        }
        assert_eq!(factory.compiled().entries.len(), Compiled::MAX_ENTRIES);
        factory.guide("regex", &"y".repeat(Compiled::MAX_BYTES - 10)).unwrap();
        assert!(factory.compiled().n_bytes <= Compiled::MAX_BYTES);
    }

    #[test]
    fn a_complement_takes_no_more_than_its_mask() {
        let mut guide = guide("lark", "start: ~ /hi+/");
        let allowed = allowed(&mut guide);
        assert!(allowed.contains(&u32::from(b'x')));
        for id in (0..PADDED).filter(|id| !allowed.contains(id)) {
            let matcher = guide.matcher.deep_clone();
            let mut other = Guide { matcher, end_tokens: guide.end_tokens.clone() };
            assert!(other.push(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_token_outside_the_grammar_is_an_error() {
        assert!(guide("regex", "ab").push(u32::from(b'x')).is_err());
    }
}
