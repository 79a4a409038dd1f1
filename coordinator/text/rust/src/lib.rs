//! The text layer: tokenizers, chat templates and grammars behind the small C ABI that
//! `../text_layer.h` declares. Only the coordinator's C++ wrapper calls it.
//!
//! Rules of the border (`border.rs`): no panic crosses it, every answer and every error message is
//! one byte buffer that the caller frees, and every object is an opaque pointer with its own free.

mod border;
mod conversation;
mod guide;
mod multiples;
mod python_json;
mod sandbox;
mod shield;
mod template;
mod tokenizer;

#[cfg(test)]
mod test_data;

// C++ uses these from several threads at once.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<tokenizer::TextTokenizer>();
    shared::<template::ChatTemplate>();
    shared::<guide::GuideFactory>();
};
