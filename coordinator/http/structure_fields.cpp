#include "coordinator/http/structure_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "coordinator/http/json_body.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxAlternatives = 4096;  // of a choice

// Without a bound, models now and then write nothing but space until the end.
constexpr const char* kJsonSpace = R"(\x20|\x0A{1,2}[\x20\x09]{0,20})";

// One way of saying what the output must be. The value is present; errors name `field`.
using ReadGrammar = Result<Grammar> (*)(const Json& value, const std::string& field);

Result<Grammar> read_text(const Json& value, const std::string& field, const char* tag) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    return Error{fmt::format("{} must be a non-empty string, not {}", field, shown(value)), field};
  }
  return Grammar{.tag = tag, .text = value.get<std::string>()};
}

// A schema, or its text.
Result<Grammar> read_schema(const Json& value, const std::string& field) {
  if (value.is_object() || value.is_boolean())
    return Grammar{.tag = "json_schema", .text = schema_text(value)};
  if (!value.is_string()) {
    return Error{fmt::format("{} must be a JSON schema, not {}", field, shown(value)), field};
  }
  const Result<Json> parsed = parse_json_body(value.get_ref<const std::string&>());
  if (!parsed) return Error{fmt::format("{}: {}", field, parsed.error().message), field};
  return Grammar{.tag = "json_schema", .text = schema_text(*parsed)};
}

Result<Grammar> read_regex(const Json& value, const std::string& field) {
  return read_text(value, field, "regex");
}

Result<Grammar> read_lark(const Json& value, const std::string& field) {
  Result<Grammar> grammar = read_text(value, field, "lark");
  if (grammar && grammar->text.find("::=") != std::string::npos) {
    return Error{fmt::format("{} is a GBNF or EBNF grammar (\"::=\"); write it in Lark's form "
                             "(start: ...)",
                             field),
                 field};
  }
  return grammar;
}

// Strings of Lark grammars are JSON strings. As one terminal, which costs little however many they
// are.
Result<Grammar> read_choice(const Json& value, const std::string& field) {
  if (!value.is_array() || value.empty() || value.size() > kMaxAlternatives) {
    return Error{fmt::format("{} must be a list of 1 to {} strings, not {}", field,
                             kMaxAlternatives, shown(value)),
                 field};
  }
  std::string text = "start: CHOICE\nCHOICE: ";
  for (const Json& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return Error{fmt::format("{} must hold non-empty strings, not {}", field, shown(item)),
                   field};
    }
    if (&item != &value.front()) text += " | ";
    text += item.dump();
  }
  return Grammar{.tag = "lark", .text = std::move(text)};
}

Result<Grammar> read_any_object(const Json& value, const std::string& field) {
  if (!value.is_boolean()) {
    return Error{fmt::format("{} must be true or false, not {}", field, shown(value)), field};
  }
  if (value == false) return Grammar{};
  return Grammar{.tag = "json_schema", .text = schema_text({{"type", "object"}})};
}

struct Way {
  const char* name;      // in structured_outputs
  const char* old_name;  // of the request
  ReadGrammar read;
};

constexpr std::array<Way, 5> kWays = {{{"json", "guided_json", read_schema},
                                       {"regex", "guided_regex", read_regex},
                                       {"choice", "guided_choice", read_choice},
                                       {"grammar", "guided_grammar", read_lark},
                                       {"json_object", "guided_json_object", read_any_object}}};

// The grammars that a request asks for; more than one is an error.
class Structure {
 public:
  explicit Structure(JsonFields& fields) : fields_(fields) {}

  void add(Result<Grammar> read, const std::string& field) {
    if (!read) return fields_.fail(read.error().param, read.error().message);
    if (read->empty()) return;
    if (!grammar_.empty()) {
      return fields_.fail(field, fmt::format("{} and {} cannot both be given", field_, field));
    }
    grammar_ = *std::move(read);
    field_ = field;
  }

  void give(GenerationCall* call) {
    call->grammar = std::move(grammar_);
    call->grammar_field = std::move(field_);
  }

 private:
  JsonFields& fields_;
  Grammar grammar_;
  std::string field_;
};

// `holder`: what holds the schema of a json_schema, named `holder_name`; null where it is missing.
void read_format(JsonFields& fields, const Json& format, const std::string& field,
                 const Json* holder, const std::string& holder_name, Structure& structure) {
  const Json type = format.value("type", Json());
  if (type == "text") return;
  if (type == "json_object") return structure.add(read_any_object(true, ""), field);
  if (type != "json_schema") {
    return fields.fail(field, fmt::format("{}.type must be text, json_object or json_schema, "
                                          "not {}",
                                          field, shown(type)));
  }
  if (holder == nullptr || !holder->is_object() || !holder->contains("schema"))
    return fields.fail(field, holder_name + " must be an object with a \"schema\"");
  const std::string schema_field = holder_name + ".schema";
  structure.add(read_schema((*holder)["schema"], schema_field), schema_field);
}

void read_response_format(JsonFields& fields, Structure& structure) {
  const Json* format = fields.object("response_format");
  if (format == nullptr) return;
  const auto holder = format->find("json_schema");
  read_format(fields, *format, "response_format", holder == format->end() ? nullptr : &*holder,
              "response_format.json_schema", structure);
}

void read_text_format(JsonFields& fields, Structure& structure) {
  const Json* text = fields.object("text");
  if (text == nullptr) return;
  JsonFields text_fields(*text, "text.");
  const Json* format = text_fields.object("format");
  if (text_fields.error()) return fields.fail("text", text_fields.error()->message);
  if (format != nullptr)
    read_format(fields, *format, "text.format", format, "text.format", structure);
}

void read_structured_outputs(JsonFields& fields, Structure& structure) {
  const Json* outputs = fields.object("structured_outputs");
  if (outputs == nullptr) return;
  for (const auto& [name, value] : outputs->items()) {
    const bool known = std::any_of(kWays.begin(), kWays.end(),
                                   [&key = name](const Way& way) { return key == way.name; });
    if (known || value.is_null() || value == false) continue;
    const std::string field = "structured_outputs." + name;
    return fields.fail(field, field + " is not supported in this version; leave it out");
  }
  bool any = false;
  for (const Way& way : kWays) {
    const auto value = outputs->find(way.name);
    if (value == outputs->end() || value->is_null()) continue;
    const std::string field = std::string("structured_outputs.") + way.name;
    structure.add(way.read(*value, field), field);
    any = true;
  }
  if (!any) {
    fields.fail("structured_outputs",
                "structured_outputs must hold one of json, regex, choice, grammar and json_object");
  }
}

}  // namespace

std::string schema_text(Json schema, bool one_line) {
  if (schema.is_boolean()) schema = schema == true ? Json::object() : Json{{"not", Json::object()}};
  if (schema.contains("x-guidance")) return schema.dump();
  if (one_line) {
    schema["x-guidance"] = {
        {"whitespace_flexible", false}, {"item_separator", ", "}, {"key_separator", ": "}};
  } else {
    schema["x-guidance"] = {{"whitespace_pattern", kJsonSpace}};
  }
  return schema.dump();
}

void read_structure_fields(JsonFields& fields, GenerationCall* call, FormatField format) {
  Structure structure(fields);
  if (format == FormatField::kText) {
    read_text_format(fields, structure);
  } else {
    read_response_format(fields, structure);
  }
  read_structured_outputs(fields, structure);
  for (const Way& way : kWays) {
    if (const Json* value = fields.value(way.old_name))
      structure.add(way.read(*value, way.old_name), way.old_name);
  }
  structure.give(call);
}

ApiError grammar_refusal(const GenerationCall& call, const std::string& why) {
  return ApiError{.status = 400,
                  .message = fmt::format("{}: {}", call.grammar_field, why),
                  .param = call.grammar_field,
                  .code = "invalid_grammar"};
}

std::optional<ApiError> check_grammar(const GuideMaker* guides, const GenerationCall& call,
                                      int32_t vocab_size) {
  if (call.grammar.empty()) return std::nullopt;
  if (guides == nullptr) return grammar_refusal(call, "this server cannot follow grammars");
  const Result<std::unique_ptr<TokenGuide>> guide = guides->make(call.grammar);
  if (!guide) return grammar_refusal(call, guide.error().message);
  std::vector<uint32_t> words(static_cast<size_t>(div_ceil(vocab_size, 32)));
  const Result<bool> masked = (*guide)->mask(words);
  if (!masked) return grammar_refusal(call, masked.error().message);
  return std::nullopt;
}

}  // namespace trireme
