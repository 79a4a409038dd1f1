#include "coordinator/batch/batch_line.h"

#include <fmt/format.h>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// In JSON no string before it can hold it: quotes are escaped there.
constexpr std::string_view kResponse = ",\"response\":";
constexpr std::string_view kSuccess = "{\"status_code\":200,";

std::variant<BatchCall, ApiError> read_call(const Json& line, std::string_view endpoint) {
  JsonFields fields(line);
  const std::string method = fields.string("method", "");
  const std::string url = fields.string("url", "");
  const Json* body = fields.object("body");
  if (!fields.error() && method != "POST") {
    fields.fail("method", fmt::format("method must be \"POST\", not {}", shown(Json(method))));
  }
  const GenerationKind* kind = kind_of(url);
  if (!fields.error() && kind == nullptr) {
    std::string known;
    for (const GenerationKind& one : kGenerationKinds) {
      known += fmt::format("{}\"{}\"", known.empty() ? "" : " or ", one.path);
    }
    fields.fail("url", fmt::format("url must be {}, not {}", known, shown(Json(url))));
  }
  if (!fields.error() && !endpoint.empty() && url != endpoint) {
    fields.fail("url", fmt::format("url is \"{}\", and this batch is for \"{}\"", url, endpoint));
  }
  if (!fields.error() && body == nullptr) fields.fail("body", "body is missing");
  if (fields.error()) return bad_request(*fields.error());
  if (JsonFields(*body).boolean("stream", false)) {
    return bad_request({"stream must not be true in a batch", "stream"});
  }
  return BatchCall{.kind = kind, .body = *body};
}

}  // namespace

BatchLine read_batch_line(std::string_view text, std::string_view endpoint) {
  BatchLine line;
  const Result<Json> parsed = parse_json_body(text);
  if (!parsed) {
    line.call = bad_request({"the line is no request: " + parsed.error().message, ""});
    return line;
  }
  JsonFields fields(*parsed);
  const std::string custom_id = fields.string("custom_id", "");
  if (!fields.error() && custom_id.empty()) {
    fields.fail("custom_id", "custom_id must be a string that is not empty");
  }
  if (custom_id.size() > kMaxCustomIdBytes) {
    fields.fail("custom_id", fmt::format("custom_id must have at most {} bytes, not {}",
                                         kMaxCustomIdBytes, custom_id.size()));
  }
  if (fields.error()) {
    line.call = bad_request(*fields.error());
    return line;
  }
  line.custom_id = dump_json(custom_id);
  line.call = read_call(*parsed, endpoint);
  return line;
}

std::string batch_line_begin(const std::string& id) { return fmt::format(R"({{"id":"{}")", id); }

std::string batch_answer_line(const std::string& id, const std::string& custom_id, int status,
                              const std::string& body) {
  return fmt::format(
      "{},\"custom_id\":{}{}{{\"status_code\":{},\"request_id\":\"{}\",\"body\":{}}},"
      "\"error\":null}}\n",
      batch_line_begin(id), custom_id, kResponse, status, id, body);
}

std::string batch_failure_line(const std::string& id, const std::string& custom_id,
                               const char* code, const std::string& message) {
  return fmt::format("{},\"custom_id\":{}{}null,\"error\":{}}}\n", batch_line_begin(id), custom_id,
                     kResponse, dump_json({{"code", code}, {"message", message}}));
}

bool is_success_line(std::string_view line) {
  const size_t at = line.find(kResponse);
  return at != line.npos && line.substr(at + kResponse.size()).starts_with(kSuccess);
}

}  // namespace trireme
