#pragma once

#include <cstddef>
#include <cstdint>

// The C ABI of the Rust library in rust/. Private to this folder; rust_answer.h wraps it.
//
// Text arguments are UTF-8 and live only for the call. A function that returns int gives 0 with its
// answer in `out`, or 1 with a one-line error message there; one that returns an object gives null
// with the message in `out`. `out` is always written and always freed with
// trireme_text_buffer_free. Tokenizers and templates may be used by several threads at once, a
// guide by one at a time.
extern "C" {

struct TextBuffer {
  uint8_t* data;
  size_t size;
  size_t capacity;
};
void trireme_text_buffer_free(TextBuffer buffer);

struct TextTokenizer;
TextTokenizer* trireme_text_tokenizer_new(const char* path, size_t path_size, TextBuffer* out);
void trireme_text_tokenizer_free(TextTokenizer* tokenizer);
size_t trireme_text_vocab_size(const TextTokenizer* tokenizer);
int64_t trireme_text_token_id(const TextTokenizer* tokenizer, const char* text, size_t size);
// Answers int32 ids.
int trireme_text_encode(const TextTokenizer* tokenizer, const char* text, size_t size,
                        bool add_special_tokens, bool special_as_text, TextBuffer* out);
// Answers UTF-8.
int trireme_text_decode(const TextTokenizer* tokenizer, const int32_t* ids, size_t n_ids,
                        bool skip_special_tokens, TextBuffer* out);

struct TextTemplate;
// `variables`: a JSON object of strings. The template keeps the tokenizer alive.
TextTemplate* trireme_text_template_new(const TextTokenizer* tokenizer, const char* source,
                                        size_t source_size, const char* variables,
                                        size_t variables_size, TextBuffer* out);
void trireme_text_template_free(TextTemplate* chat_template);
// `request`: the JSON of rust/src/conversation.rs. Answers UTF-8, or int32 ids.
int trireme_text_template_render(const TextTemplate* chat_template, const char* request,
                                 size_t size, TextBuffer* out);
int trireme_text_template_encode(const TextTemplate* chat_template, const char* request,
                                 size_t size, TextBuffer* out);

struct TextGuideFactory;
TextGuideFactory* trireme_text_guide_factory_new(const TextTokenizer* tokenizer,
                                                 uint32_t padded_vocab_size,
                                                 const int32_t* end_tokens, size_t n_end_tokens,
                                                 TextBuffer* out);
void trireme_text_guide_factory_free(TextGuideFactory* factory);

struct TextGuide;
TextGuide* trireme_text_guide_new(const TextGuideFactory* factory, const char* tag, size_t tag_size,
                                  const char* grammar, size_t grammar_size, TextBuffer* out);
void trireme_text_guide_free(TextGuide* guide);
int trireme_text_guide_mask(TextGuide* guide, uint32_t* words, size_t n_words, TextBuffer* out);
// Answers one byte: 1 once the grammar has ended.
int trireme_text_guide_push(TextGuide* guide, uint32_t token, TextBuffer* out);

}  // extern "C"
