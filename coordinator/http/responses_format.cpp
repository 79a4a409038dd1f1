#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "coordinator/http/reply_parts.h"
#include "kernels/check.h"

namespace trireme {
namespace {

// One item of the output: what the model says, its reasoning, or a call.
struct OutputItem {
  enum class Type : uint8_t { kMessage, kReasoning, kCall };
  Type type = Type::kMessage;
  std::string id;
  std::string text;    // of a call: its arguments
  bool open = true;    // more of it may come
  bool whole = false;  // once not open: nothing cut it
  // Of a call:
  int call = 0;
  std::string call_id;
  std::string name;
};

OrderedJson part_json(const OutputItem& item) {
  const bool says = item.type == OutputItem::Type::kMessage;
  OrderedJson json;
  json["type"] = says ? "output_text" : "reasoning_text";
  json["text"] = item.text;
  if (!says) return json;
  json["annotations"] = OrderedJson::array();
  json["logprobs"] = OrderedJson::array();
  return json;
}

// An open one as it is told of when it begins.
OrderedJson item_json(const OutputItem& item) {
  OrderedJson json;
  json["id"] = item.id;
  json["type"] = item.type == OutputItem::Type::kMessage     ? "message"
                 : item.type == OutputItem::Type::kReasoning ? "reasoning"
                                                             : "function_call";
  json["status"] = item.open ? "in_progress" : item.whole ? "completed" : "incomplete";
  if (item.type == OutputItem::Type::kCall) {
    json["call_id"] = item.call_id;
    json["name"] = item.name;
    json["arguments"] = item.text;
    return json;
  }
  if (item.type == OutputItem::Type::kMessage) {
    json["role"] = "assistant";
  } else {
    json["summary"] = OrderedJson::array();
  }
  json["content"] = OrderedJson::array();
  if (!item.open) json["content"].push_back(part_json(item));
  return json;
}

OrderedJson response_usage_json(const Usage& usage) {
  OrderedJson json;
  json["input_tokens"] = usage.n_prompt_tokens;
  json["input_tokens_details"] = {{"cached_tokens", usage.n_cached_tokens}};
  json["output_tokens"] = usage.n_output_tokens;
  json["output_tokens_details"] = {{"reasoning_tokens", usage.n_reasoning_tokens}};
  json["total_tokens"] = usage.n_prompt_tokens + usage.n_output_tokens;
  return json;
}

// A response as OpenAI has it: a list of items. A stream's events are those of the items as they
// grow, one after the other, between some with the whole response.
class ResponsesFormat final : public ReplyFormat {
 public:
  explicit ResponsesFormat(ReplyOptions options)
      : options_(std::move(options)), repeated_(OrderedJson::parse(options_.response_fields)) {}

  HttpResponse reply(const std::vector<ChoiceText>& /*choices*/, const Usage& usage) override {
    return json_response(response_object(end_status(), &usage));
  }

  ReplyEvents opening(int /*index*/, const Usage* /*usage*/) override {
    emit_response("response.created", "in_progress", nullptr);
    emit_response("response.in_progress", "in_progress", nullptr);
    return std::exchange(events_, {});
  }

  // Within a part, what is left of a call comes before the text behind it.
  ReplyEvents chunk(const ChoiceText& part, const Usage* /*usage*/) override {
    n_items_before_ = items_.size();
    if (!part.reasoning.empty()) add_text(OutputItem::Type::kReasoning, part.reasoning);
    for (const ToolCallPart& call : part.calls) {
      if (call.name.empty()) add_arguments(call);
    }
    if (!part.text.empty()) add_text(OutputItem::Type::kMessage, part.text);
    for (const ToolCallPart& call : part.calls) {
      if (!call.name.empty()) begin_call(call);
    }
    finish_ = part.finish;
    if (finish_ != FinishReason::kNone) end_items();
    return std::exchange(events_, {});
  }

  ReplyEvents usage_chunk(const Usage& usage) override {
    const bool whole = finish_ == FinishReason::kStop;
    emit_response(whole ? "response.completed" : "response.incomplete", end_status(), &usage);
    return std::exchange(events_, {});
  }

  void skip_events(int64_t n_events) override { n_skipped_ = n_events; }

  ReplyEvents failure(const std::string& error_json) override {
    error_ = OrderedJson::parse(error_json).at("error");
    for (OutputItem& item : items_) item.open = false;
    emit_response("response.failed", "failed", nullptr);
    return std::exchange(events_, {});
  }

 private:
  // The next event. `fill` sets its members; it is not called when the client has the event.
  template <typename Fill>
  void emit(const char* type, const Fill& fill) {
    const int64_t number = n_events_++;
    if (number < n_skipped_) return;
    OrderedJson json;
    json["type"] = type;
    json["sequence_number"] = number;
    fill(json);
    events_.push_back({.data = dump_json(json), .name = type});
  }

  void emit_response(const char* type, const char* status, const Usage* usage) {
    emit(type, [&](OrderedJson& json) { json["response"] = response_object(status, usage); });
  }

  void emit_item(const char* type, size_t index) {
    emit(type, [&](OrderedJson& json) {
      json["output_index"] = index;
      json["item"] = item_json(items_[index]);
    });
  }

  // Of an item's one content part, or of a call's arguments.
  template <typename Fill>
  void emit_of_item(const char* type, size_t index, const Fill& fill) {
    emit(type, [&](OrderedJson& json) {
      const OutputItem& item = items_[index];
      json["item_id"] = item.id;
      json["output_index"] = index;
      if (item.type != OutputItem::Type::kCall) json["content_index"] = 0;
      fill(json);
    });
  }

  // Behind the items there are, which end with it; but of calls that began in the same part, the
  // arguments are still to come.
  void open(OutputItem item, const char* id_prefix) {
    for (size_t i = 0; i < items_.size(); ++i) {
      const bool goes_on = items_[i].type == OutputItem::Type::kCall && i >= n_items_before_;
      if (items_[i].open && !goes_on) close(i, /*whole=*/true);
    }
    const size_t index = items_.size();
    item.id = fmt::format("{}_{}_{}", id_prefix, options_.id, index);
    items_.push_back(std::move(item));
    emit_item("response.output_item.added", index);
  }

  void open_text(OutputItem::Type type) {
    OutputItem item;
    item.type = type;
    open(std::move(item), type == OutputItem::Type::kMessage ? "msg" : "rs");
    emit_of_item("response.content_part.added", items_.size() - 1,
                 [&](OrderedJson& json) { json["part"] = part_json(items_.back()); });
  }

  void begin_call(const ToolCallPart& call) {
    OutputItem item;
    item.type = OutputItem::Type::kCall;
    item.call = call.index;
    item.call_id = tool_call_id(options_.id, /*choice=*/0, call.index);
    item.name = call.name;
    open(std::move(item), "fc");
    if (!call.arguments.empty()) add_arguments(call);
  }

  void add_text(OutputItem::Type type, const std::string& text) {
    if (items_.empty() || !items_.back().open || items_.back().type != type) open_text(type);
    items_.back().text += text;
    const bool says = type == OutputItem::Type::kMessage;
    emit_of_item(says ? "response.output_text.delta" : "response.reasoning_text.delta",
                 items_.size() - 1, [&](OrderedJson& json) {
                   json["delta"] = text;
                   if (says) json["logprobs"] = OrderedJson::array();
                 });
  }

  void add_arguments(const ToolCallPart& call) {
    const auto found = std::find_if(items_.rbegin(), items_.rend(), [&](const OutputItem& item) {
      return item.type == OutputItem::Type::kCall && item.call == call.index;
    });
    TRIREME_CHECK(found != items_.rend() && found->open);
    found->text += call.arguments;
    const auto index = static_cast<size_t>(items_.rend() - found) - 1;
    emit_of_item("response.function_call_arguments.delta", index,
                 [&](OrderedJson& json) { json["delta"] = call.arguments; });
  }

  // There is a message where the model said nothing.
  void end_items() {
    if (items_.empty()) open_text(OutputItem::Type::kMessage);
    for (size_t i = 0; i < items_.size(); ++i) {
      const bool cut = finish_ != FinishReason::kStop && i + 1 == items_.size();
      if (items_[i].open) close(i, !cut);
    }
  }

  void close(size_t index, bool whole) {
    OutputItem& item = items_[index];
    item.open = false;
    item.whole = whole;
    if (item.type == OutputItem::Type::kCall) {
      emit_of_item("response.function_call_arguments.done", index, [&](OrderedJson& json) {
        json["name"] = item.name;
        json["arguments"] = item.text;
      });
    } else {
      const bool says = item.type == OutputItem::Type::kMessage;
      emit_of_item(says ? "response.output_text.done" : "response.reasoning_text.done", index,
                   [&](OrderedJson& json) {
                     json["text"] = item.text;
                     if (says) json["logprobs"] = OrderedJson::array();
                   });
      emit_of_item("response.content_part.done", index,
                   [&](OrderedJson& json) { json["part"] = part_json(item); });
    }
    emit_item("response.output_item.done", index);
  }

  const char* end_status() const {
    return finish_ == FinishReason::kStop ? "completed" : "incomplete";
  }

  OrderedJson response_object(const char* status, const Usage* usage) const {
    OrderedJson json;
    json["id"] = options_.id;
    json["object"] = "response";
    json["created_at"] = options_.created;
    json["status"] = status;
    json["background"] = false;
    json["error"] = nullptr;
    if (!error_.is_null())
      json["error"] = {{"code", error_.at("type")}, {"message", error_.at("message")}};
    json["incomplete_details"] = nullptr;
    if (finish_ == FinishReason::kLength)
      json["incomplete_details"] = {{"reason", "max_output_tokens"}};
    json["model"] = options_.model;
    json["output"] = OrderedJson::array();
    for (const OutputItem& item : items_) json["output"].push_back(item_json(item));
    json["previous_response_id"] = nullptr;
    json["reasoning"] = {{"effort", nullptr}, {"summary", nullptr}};
    json["store"] = false;
    json["truncation"] = "disabled";
    json["usage"] = usage == nullptr ? OrderedJson(nullptr) : response_usage_json(*usage);
    json.update(repeated_);
    return json;
  }

  const ReplyOptions options_;
  const OrderedJson repeated_;
  std::vector<OutputItem> items_;
  size_t n_items_before_ = 0;  // the part under way
  FinishReason finish_ = FinishReason::kNone;
  OrderedJson error_;
  int64_t n_events_ = 0;
  int64_t n_skipped_ = 0;
  ReplyEvents events_;
};

}  // namespace

std::unique_ptr<ReplyFormat> make_responses_format(ReplyOptions options,
                                                   const TextCodec& /*codec*/) {
  return std::make_unique<ResponsesFormat>(std::move(options));
}

}  // namespace trireme
