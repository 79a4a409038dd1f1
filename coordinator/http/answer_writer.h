#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/http/generation_call.h"
#include "coordinator/http/reply_format.h"
#include "coordinator/http/stream_position.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

// Turns the events of a request's choices into the bytes of its answer: text, stop strings, JSON.
// The same events of each choice give the same bytes (the choices' order aside), so an answer can
// be made again from a log of them, or from the middle on. Not thread-safe.
class AnswerWriter {
 public:
  enum class Form : uint8_t {
    kWhole,   // one body at the end
    kStream,  // server-sent events
    kSilent,  // nobody reads: only where the choices end is of interest
  };
  struct Options {
    Form form = Form::kWhole;
    bool with_ids = false;  // each event says the position behind it
    StreamPosition from;    // what the client has already; empty: nothing
  };
  struct Added {
    bool ended = false;           // the choice, with this event
    bool by_stop_string = false;  // before the service knew it
  };

  // `call` must outlive it.
  AnswerWriter(const GenerationCall& call, const TextCodec& codec,
               std::unique_ptr<ReplyFormat> format, Options options);

  // The next event of a choice; nothing, once that has ended.
  Added add(int index, const GenerateEvent& event);
  // What follows after the end of the last choice.
  void finish();
  // The end with an error (a JSON object) in a stream.
  void fail(const std::string& error_json);
  // From now on nobody reads.
  void mute() { options_.form = Form::kSilent; }

  // What the client has, once it got all of take().
  const StreamPosition& sent() const { return sent_; }

  // What there is to send, once.
  std::string take();
  // The one answer.
  HttpResponse whole();

 private:
  struct Choice {
    bool done = false;
    bool opened = false;   // its first part was made
    int32_t n_tokens = 0;  // taken in
    std::unique_ptr<TextStream> text;
    std::optional<MessageParser> message;  // of a chat that is to be read
    bool has_calls = false;
    std::vector<float> prompt_logprobs;
    std::vector<std::vector<TokenLogprob>> prompt_top_logprobs;
    double sum_logprob = 0;  // of its tokens, where they are told
    ChoiceText whole;        // without streaming: all of it
    int64_t text_offset = 0;
  };

  const Prompt& prompt_of(int index) const { return call_.prompts[index / call_.n]; }
  Added add_part(int index, const GenerateEvent& event);
  ChoiceText open_part(int index);
  std::vector<TokenInfo> prompt_tokens(int index, int32_t n_top) const;
  std::vector<int> told_choices() const;
  bool is_silent_stop(const GenerateEvent& event, size_t i) const;
  bool add_tokens(int index, const GenerateEvent& event, ChoiceText* part);
  void add_token_text(Choice& choice, const std::string& text, ChoiceText* part);
  void add_text(Choice& choice, const std::string& text, ChoiceText* part);
  void deliver(int index, ChoiceText part);
  bool has(int index, const StreamPosition::Choice& upto);
  void begin_stream(const Usage* usage);
  void send(const ReplyEvents& events);

  const GenerationCall& call_;
  std::unique_ptr<ReplyFormat> format_;
  Options options_;
  std::vector<Choice> choices_;  // index = prompt * n + choice
  Usage usage_;
  StreamPosition sent_;
  bool begun_ = false;  // the stream
  std::string outgoing_;
};

}  // namespace trireme
