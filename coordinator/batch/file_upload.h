#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "coordinator/batch/batch_store.h"
#include "coordinator/http/api_error.h"
#include "coordinator/http/multipart.h"

namespace trireme {

constexpr int kMaxUploads = 4;  // under way
// Of the body: the file and the rest of the form.
constexpr uint64_t kMaxUploadBodyBytes = kMaxUploadBytes + (64U << 10);

// The form of POST /v1/files, written into the store as it comes.
class FileUpload final : public BodySink {
 public:
  // `n_uploads`: of those under way. The store must outlive it.
  FileUpload(BatchStore& store, std::shared_ptr<std::atomic<int>> n_uploads,
             const HttpRequest& head);
  ~FileUpload() override;

  std::optional<ApiError> take(std::string_view bytes) override;
  // When all of the body was taken.
  std::variant<StoredFile, ApiError> finish();

 private:
  std::optional<ApiError> begin();
  std::optional<Error> open_part(const FormPart& part);
  std::optional<Error> take_data(std::string_view bytes);

  BatchStore& store_;
  const std::shared_ptr<std::atomic<int>> n_uploads_;
  const std::string key_name_;
  const std::string content_type_;
  bool counted_ = false;
  std::optional<MultipartParser> parser_;
  bool in_file_ = false;  // else in the purpose
  std::optional<std::string> purpose_;
  std::string filename_;
  std::unique_ptr<BatchStore::NewFile> file_;
};

}  // namespace trireme
