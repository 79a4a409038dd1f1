#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http/generation_call.h"
#include "coordinator/http/http_message.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

// One token as "logprobs" shows it.
struct TokenInfo {
  int32_t id = 0;
  bool has_logprob = true;  // false: the first token of a prompt
  float logprob = 0.0F;
  std::vector<TokenLogprob> top;  // most likely first
};

// What one choice says, whole or one part of it in a stream.
struct ChoiceText {
  int index = 0;
  std::string text;
  std::vector<TokenInfo> tokens;  // when logprobs are wanted
  int64_t text_offset = 0;        // characters of the choice's text before this part
  FinishReason finish = FinishReason::kNone;
  std::vector<int32_t> token_ids;        // of the output, when they are wanted
  std::vector<int32_t> prompt_ids;       // the same, with the choice's first part
  std::vector<TokenInfo> prompt_tokens;  // with the first part, when prompt_logprobs are wanted
  // Of a message (MessageParser):
  std::string reasoning;
  std::vector<ToolCallPart> calls;
  bool has_calls = false;  // the choice, in this part or before it
};

// Code points of UTF-8 text.
int64_t count_characters(std::string_view text);

struct Usage {
  int64_t n_prompt_tokens = 0;
  int64_t n_output_tokens = 0;
  int64_t n_cached_tokens = 0;  // of the prompts', whose KV was there
  int64_t n_guessed = 0;        // of the output, before they were drawn
  int64_t n_guessed_right = 0;
  int64_t n_reasoning_tokens = 0;  // of the output
};

// One event of a stream.
struct ReplyEvent {
  std::string data;       // a JSON object
  const char* name = "";  // "": it has none
};
using ReplyEvents = std::vector<ReplyEvent>;

// Makes one request's answer, once: in the form of an endpoint, with this request's id and time.
class ReplyFormat {
 public:
  virtual ~ReplyFormat() = default;
  // The whole answer.
  virtual HttpResponse reply(const std::vector<ChoiceText>& choices, const Usage& usage) = 0;
  // A part of a stream. `usage` null: not in this one.
  virtual ReplyEvents chunk(const ChoiceText& part, const Usage* usage) = 0;
  // What a choice's stream begins with.
  virtual ReplyEvents opening(int index, const Usage* usage) = 0;
  // What comes behind the last part and holds the usage.
  virtual ReplyEvents usage_chunk(const Usage& usage) = 0;

  // Of numbered calls (GenerationCall::numbered()), whose format is told of all parts in any case,
  // also of those that its client has, or gets in one body.
  // The client has so many events already: they are counted, but not made.
  virtual void skip_events(int64_t /*n_events*/) {}
  // The end with an error, as api_error_body() makes it.
  virtual ReplyEvents failure(const std::string& /*error_json*/) { return {}; }
};

// Which options of the request change the form.
struct ReplyOptions {
  std::string id;       // of the answer
  int64_t created = 0;  // seconds since 1970
  std::string model;
  int32_t n_logprobs = kNoLogprobs;
  bool null_usage = false;  // chunks without usage say so with "usage": null
  bool prompt_logprobs = false;
  bool token_ids = false;
  bool tokens_as_ids = false;   // "token_id:7" for a token's text in logprobs
  std::string response_fields;  // GenerationCall::response_fields
  TensorReply tensors;          // of an inference
};

// An id that no other answer has, of this coordinator or another, and that nobody can guess.
std::string draw_answer_id(const std::string& prefix);

// Of a call in an answer's choice: always the same one, so that answers can be made again. 9
// letters and digits, which is what Mistral's chat templates ask for.
std::string tool_call_id(const std::string& answer_id, int choice, int call);

std::unique_ptr<ReplyFormat> make_completion_format(ReplyOptions options, const TextCodec& codec);
std::unique_ptr<ReplyFormat> make_chat_format(ReplyOptions options, const TextCodec& codec);
std::unique_ptr<ReplyFormat> make_responses_format(ReplyOptions options, const TextCodec& codec);
std::unique_ptr<ReplyFormat> make_infer_format(ReplyOptions options, const TextCodec& codec);

}  // namespace trireme
