// Files and batches, as OpenAI's API has them.

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "coordinator/batch/batch_service.h"
#include "coordinator/batch/file_upload.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/generation_kind.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/query.h"
#include "coordinator/http/reply_parts.h"
#include "coordinator/http/stored_file_source.h"

namespace trireme {
namespace {

constexpr int64_t kMaxPage = 10000;
constexpr int64_t kMaxBatchPage = 100;
constexpr size_t kMaxMetadata = 16;
constexpr size_t kMaxMetadataKeyBytes = 64;
constexpr size_t kMaxMetadataValueBytes = 512;

ApiError not_found(const char* what, const std::string& id) {
  return {.status = 404,
          .message = fmt::format("there is no {} {} here", what, id),
          .param = "id",
          .code = std::string(what) + "_not_found"};
}

// Whether it came with the key that something belongs to. Without keys, everybody may ask.
bool may_see(const HttpRequest& request, const std::string& key_name) {
  return request.key_name.empty() || request.key_name == key_name;
}

OrderedJson file_json(const StoredFile& file) {
  return {{"id", file.id},
          {"object", "file"},
          {"bytes", file.n_bytes},
          {"created_at", file.created},
          {"expires_at", file.created + kFileRetention_s},
          {"filename", file.filename},
          {"purpose", file.purpose},
          {"status", "processed"}};
}

OrderedJson id_or_null(const std::string& id) {
  return id.empty() ? OrderedJson(nullptr) : OrderedJson(id);
}

OrderedJson time_or_null(int64_t time, bool known = true) {
  return time == 0 || !known ? OrderedJson(nullptr) : OrderedJson(time);
}

OrderedJson batch_json(const StoredBatch& batch) {
  const auto ended_as = [&](BatchStatus status) {
    return time_or_null(batch.ended_at, batch.status == status);
  };
  OrderedJson json;
  json["id"] = batch.id;
  json["object"] = "batch";
  json["endpoint"] = batch.endpoint;
  json["errors"] = nullptr;
  if (!batch.error.empty()) {
    json["errors"] = {{"object", "list"},
                      {"data", OrderedJson::array({{{"code", "invalid_input"},
                                                    {"message", batch.error},
                                                    {"param", nullptr},
                                                    {"line", nullptr}}})}};
  }
  json["input_file_id"] = batch.input_file_id;
  json["completion_window"] = "24h";
  json["status"] = batch_status_name(batch.status);
  json["output_file_id"] = id_or_null(batch.output_file_id);
  json["error_file_id"] = id_or_null(batch.error_file_id);
  json["created_at"] = batch.created;
  json["in_progress_at"] = time_or_null(batch.in_progress_at);
  json["expires_at"] = batch.expires_at();
  json["finalizing_at"] = time_or_null(batch.finalizing_at);
  json["completed_at"] = ended_as(BatchStatus::kCompleted);
  json["failed_at"] = ended_as(BatchStatus::kFailed);
  json["expired_at"] = ended_as(BatchStatus::kExpired);
  json["cancelling_at"] = time_or_null(batch.cancelling_at);
  json["cancelled_at"] = ended_as(BatchStatus::kCancelled);
  json["request_counts"] = {
      {"total", batch.n_total}, {"completed", batch.n_completed}, {"failed", batch.n_failed}};
  json["metadata"] = OrderedJson::parse(batch.metadata);
  return json;
}

// A page that the query asks for; one row more, to know whether there is more.
Result<StorePage> read_page(const HttpRequest& request, int64_t limit, int64_t max) {
  const Result<int64_t> n = query_integer(request.query, "limit", limit, 1, max);
  if (!n) return n.error();
  Result<std::optional<std::string>> after = query_value(request.query, "after");
  if (!after) return after.error();
  const Result<std::optional<std::string>> order = query_value(request.query, "order");
  if (!order) return order.error();
  const std::string direction = order->value_or("desc");
  if (direction != "asc" && direction != "desc") return Error{"order must be asc or desc", "order"};
  return StorePage{.key_name = request.key_name,
                   .everybody = request.key_name.empty(),
                   .after = after->value_or(""),
                   .limit = *n + 1,
                   .newest_first = direction == "desc"};
}

template <typename Row>
HttpResponse list_response(std::vector<Row> rows, const StorePage& page,
                           OrderedJson (*to_json)(const Row&)) {
  const bool has_more = static_cast<int64_t>(rows.size()) == page.limit;
  if (has_more) rows.pop_back();
  OrderedJson json;
  json["object"] = "list";
  json["data"] = OrderedJson::array();
  for (const Row& row : rows) json["data"].push_back(to_json(row));
  json["first_id"] = rows.empty() ? OrderedJson(nullptr) : OrderedJson(rows.front().id);
  json["last_id"] = rows.empty() ? OrderedJson(nullptr) : OrderedJson(rows.back().id);
  json["has_more"] = has_more;
  return json_response(json);
}

// ---- files ----

HttpResponse post_file(BatchService& /*batches*/, const HttpRequest& request) {
  const auto upload = std::dynamic_pointer_cast<FileUpload>(request.sink);
  auto file = upload->finish();
  if (const auto* error = std::get_if<ApiError>(&file)) return api_error_response(*error);
  return json_response(file_json(std::get<StoredFile>(file)));
}

HttpResponse get_files(BatchService& batches, const HttpRequest& request) {
  Result<StorePage> page = read_page(request, kMaxPage, kMaxPage);
  if (!page) return api_error_response(bad_request(page.error()));
  const Result<std::optional<std::string>> purpose = query_value(request.query, "purpose");
  if (!purpose) return api_error_response(bad_request(purpose.error()));
  page->purpose = purpose->value_or("");
  return list_response(batches.store().list_files(*page), *page, file_json);
}

std::optional<StoredFile> find_file(BatchService& batches, const HttpRequest& request) {
  std::optional<StoredFile> file = batches.store().find_file(request.path_tail);
  if (file && !may_see(request, file->key_name)) file.reset();
  return file;
}

HttpResponse get_file(BatchService& batches, const HttpRequest& request) {
  const std::optional<StoredFile> file = find_file(batches, request);
  if (!file) return api_error_response(not_found("file", request.path_tail));
  return json_response(file_json(*file));
}

HttpResponse delete_file(BatchService& batches, const HttpRequest& request) {
  const std::optional<StoredFile> file = find_file(batches, request);
  if (!file) return api_error_response(not_found("file", request.path_tail));
  if (!batches.store().remove_file(file->id)) {
    return api_error_response(bad_request(
        {"a batch that has not ended reads this file: cancel it, or wait for its end", "id"}));
  }
  return json_response({{"id", file->id}, {"object", "file"}, {"deleted", true}});
}

HttpResponse get_content(BatchService& batches, const HttpRequest& request) {
  const std::optional<StoredFile> file = find_file(batches, request);
  if (!file) return api_error_response(not_found("file", request.path_tail));
  HttpResponse response;
  response.content_type = "application/octet-stream";
  response.source = open_stored_file(batches.store().path_of_file(file->id));
  if (response.source == nullptr) return api_error_response(not_found("file", file->id));
  return response;
}

// ---- batches ----

// As JSON: an object of strings, or null.
Result<std::string> read_metadata(JsonFields& fields) {
  const OrderedJson* metadata = fields.object("metadata");
  if (metadata == nullptr) return std::string("null");
  if (metadata->size() > kMaxMetadata) {
    return Error{fmt::format("metadata must have at most {} members, not {}", kMaxMetadata,
                             metadata->size()),
                 "metadata"};
  }
  for (const auto& [key, value] : metadata->items()) {
    if (value.is_string() && key.size() <= kMaxMetadataKeyBytes &&
        value.get_ref<const std::string&>().size() <= kMaxMetadataValueBytes) {
      continue;
    }
    return Error{fmt::format("metadata must hold strings of at most {} bytes, with names of at "
                             "most {}",
                             kMaxMetadataValueBytes, kMaxMetadataKeyBytes),
                 "metadata"};
  }
  return dump_json(*metadata);
}

Result<StoredBatch> read_batch(const OrderedJson& body) {
  JsonFields fields(body);
  StoredBatch batch;
  batch.endpoint = fields.string("endpoint", "");
  batch.input_file_id = fields.string("input_file_id", "");
  const std::string window = fields.string("completion_window", "");
  if (kind_of(batch.endpoint) == nullptr) {
    fields.fail("endpoint", fmt::format("endpoint must be one that generates, such as \"{}\"",
                                        kGenerationKinds.front().path));
  }
  if (window != "24h") fields.fail("completion_window", "completion_window must be \"24h\"");
  Result<std::string> metadata = read_metadata(fields);
  if (fields.error()) return *fields.error();
  if (!metadata) return metadata.error();
  batch.metadata = *std::move(metadata);
  return batch;
}

HttpResponse post_batch(BatchService& batches, const HttpRequest& request) {
  const Result<OrderedJson> body = parse_json_body(request.body);
  if (!body) return api_error_response(bad_request(body.error()));
  Result<StoredBatch> batch = read_batch(*body);
  if (!batch) return api_error_response(bad_request(batch.error()));
  const std::optional<StoredFile> file = batches.store().find_file(batch->input_file_id);
  if (!file || !may_see(request, file->key_name) || file->purpose != "batch") {
    return api_error_response(
        {.status = 400,
         .message = "input_file_id must name a file that was uploaded with purpose \"batch\"",
         .param = "input_file_id",
         .code = "file_not_found"});
  }
  batch->key_name = request.key_name;
  batch->created = std::time(nullptr);
  const Result<StoredBatch> added = batches.add(*std::move(batch));
  if (added) return json_response(batch_json(*added));
  return api_error_response({.status = 429,
                             .message = added.error().message,
                             .param = "",
                             .code = "queue_full",
                             .retry_after_seconds = 60});
}

HttpResponse get_batches(BatchService& batches, const HttpRequest& request) {
  const Result<StorePage> page = read_page(request, 20, kMaxBatchPage);
  if (!page) return api_error_response(bad_request(page.error()));
  return list_response(batches.store().list_batches(*page), *page, batch_json);
}

std::optional<StoredBatch> find_batch(BatchService& batches, const HttpRequest& request) {
  std::optional<StoredBatch> batch = batches.store().find_batch(request.path_tail);
  if (batch && !may_see(request, batch->key_name)) batch.reset();
  return batch;
}

HttpResponse get_batch(BatchService& batches, const HttpRequest& request) {
  const std::optional<StoredBatch> batch = find_batch(batches, request);
  if (!batch) return api_error_response(not_found("batch", request.path_tail));
  return json_response(batch_json(*batch));
}

HttpResponse cancel_batch(BatchService& batches, const HttpRequest& request) {
  const std::optional<StoredBatch> batch = find_batch(batches, request);
  if (!batch) return api_error_response(not_found("batch", request.path_tail));
  if (batch->has_ended()) {
    return api_error_response(bad_request(
        {fmt::format("this batch has ended already: {}", batch_status_name(batch->status)), "id"}));
  }
  return json_response(batch_json(*batches.cancel(batch->id)));
}

// ---- routes ----

using Answer = HttpResponse (*)(BatchService&, const HttpRequest&);

Route route(const std::shared_ptr<ApiContext>& context, const char* method, const char* path,
            Answer answer) {
  return {.method = method,
          .path = path,
          .cost = HandlerCost::kHeavy,
          .handler = [context, answer](const HttpRequest& request, const ResponderPtr& responder) {
            if (context->batches != nullptr)
              return responder->reply(answer(*context->batches, request));
            responder->reply(api_error_response(
                {.status = 404,
                 .message = "this server keeps no files and batches: start it with --batches "
                            "FOLDER",
                 .param = "",
                 .code = "batches_disabled"}));
          }};
}

}  // namespace

std::vector<Route> batch_routes(const std::shared_ptr<ApiContext>& context) {
  Route upload = route(context, "POST", "/v1/files", post_file);
  if (context->batches != nullptr) {
    upload.max_sink_bytes = kMaxUploadBodyBytes;
    upload.open_sink =
        [context, n_uploads = std::make_shared<std::atomic<int>>(0)](const HttpRequest& head) {
          return std::make_shared<FileUpload>(context->batches->store(), n_uploads, head);
        };
  }
  return {upload,
          route(context, "GET", "/v1/files", get_files),
          route(context, "GET", "/v1/files/*/content", get_content),
          route(context, "GET", "/v1/files/*", get_file),
          route(context, "DELETE", "/v1/files/*", delete_file),
          route(context, "POST", "/v1/batches", post_batch),
          route(context, "GET", "/v1/batches", get_batches),
          route(context, "POST", "/v1/batches/*/cancel", cancel_batch),
          route(context, "GET", "/v1/batches/*", get_batch)};
}

}  // namespace trireme
