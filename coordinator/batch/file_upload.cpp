#include "coordinator/batch/file_upload.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/reply_format.h"

namespace trireme {
namespace {

constexpr size_t kMaxPurposeBytes = 64;
constexpr size_t kMaxFilenameBytes = 255;
constexpr const char* kPurpose = "batch";

ApiError disk_failed(const std::exception& error) {
  spdlog::error("an upload failed: {}", error.what());
  return {.status = 503,
          .message = "the server cannot store files now; see its log",
          .param = "",
          .code = "storage_failed",
          .retry_after_seconds = 5};
}

std::string shown_text(const std::string& text) { return shown(nlohmann::ordered_json(text)); }

}  // namespace

FileUpload::FileUpload(BatchStore& store, std::shared_ptr<std::atomic<int>> n_uploads,
                       const HttpRequest& head)
    : store_(store),
      n_uploads_(std::move(n_uploads)),
      key_name_(head.key_name),
      content_type_(head.content_type) {}

FileUpload::~FileUpload() {
  if (counted_) n_uploads_->fetch_sub(1);
}

std::optional<ApiError> FileUpload::begin() {
  if (n_uploads_->fetch_add(1) >= kMaxUploads) {
    n_uploads_->fetch_sub(1);
    return ApiError{.status = 429,
                    .message = fmt::format("{} uploads are under way already", kMaxUploads),
                    .param = "",
                    .code = "too_many_uploads",
                    .retry_after_seconds = 1};
  }
  counted_ = true;
  Result<std::string> boundary = multipart_boundary(content_type_);
  if (!boundary) return bad_request(boundary.error());
  if (const std::optional<Error> error = store_.full()) {
    return ApiError{
        .status = 413, .message = error->message, .param = error->param, .code = "storage_full"};
  }
  parser_.emplace(*std::move(boundary),
                  MultipartParser::Events{
                      .on_part = [this](const FormPart& part) { return open_part(part); },
                      .on_data = [this](std::string_view bytes) { return take_data(bytes); },
                      .on_part_end = [] { return std::optional<Error>(); }});
  return std::nullopt;
}

std::optional<ApiError> FileUpload::take(std::string_view bytes) {
  try {
    if (!parser_) {
      if (auto error = begin()) return error;
    }
    if (const std::optional<Error> error = parser_->feed(bytes)) return bad_request(*error);
    return std::nullopt;
  } catch (const std::runtime_error& error) {
    return disk_failed(error);
  }
}

std::optional<Error> FileUpload::open_part(const FormPart& part) {
  in_file_ = part.name == "file";
  if (!in_file_ && part.name != "purpose") {
    return Error{fmt::format("the form's field {} is not supported: use file and purpose",
                             shown_text(part.name)),
                 part.name.substr(0, kMaxPurposeBytes)};
  }
  if (in_file_ ? file_ != nullptr : purpose_.has_value()) {
    return Error{fmt::format("the form has the field {} twice", part.name), part.name};
  }
  if (!in_file_) {
    purpose_.emplace();
    return std::nullopt;
  }
  filename_ = part.filename.value_or("");
  if (filename_.empty() || filename_.size() > kMaxFilenameBytes) {
    return Error{fmt::format("the file's name must have 1 to {} bytes", kMaxFilenameBytes), "file"};
  }
  file_ = store_.new_file(draw_answer_id("file-"));
  return std::nullopt;
}

std::optional<Error> FileUpload::take_data(std::string_view bytes) {
  if (in_file_) {
    file_->write(bytes);
    if (static_cast<uint64_t>(file_->n_bytes()) <= kMaxUploadBytes) return std::nullopt;
    return Error{fmt::format("the file is longer than {} bytes", kMaxUploadBytes), "file"};
  }
  *purpose_ += bytes;
  if (purpose_->size() <= kMaxPurposeBytes) return std::nullopt;
  return Error{fmt::format("purpose is longer than {} bytes", kMaxPurposeBytes), "purpose"};
}

std::variant<StoredFile, ApiError> FileUpload::finish() {
  const auto missing = [](const char* what, const char* param) {
    return bad_request({what, param});
  };
  if (!parser_ || !parser_->is_done()) {
    return missing("the body must be a form, multipart/form-data, that ends in its boundary", "");
  }
  if (!purpose_) return missing("purpose is missing: it must be \"batch\"", "purpose");
  if (*purpose_ != kPurpose) {
    return bad_request(
        {fmt::format("purpose must be \"batch\", not {}", shown_text(*purpose_)), "purpose"});
  }
  if (!file_) return missing("file is missing", "file");
  if (file_->n_bytes() == 0) return missing("the file is empty", "file");
  try {
    return file_->keep({.key_name = key_name_,
                        .filename = filename_,
                        .purpose = kPurpose,
                        .created = std::time(nullptr)});
  } catch (const std::runtime_error& error) {
    return disk_failed(error);
  }
}

}  // namespace trireme
