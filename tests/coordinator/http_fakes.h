#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/http/api_server.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

constexpr int32_t kFakeEos = 256;
constexpr int32_t kFakeVocab = 257;
constexpr int32_t kFakeHidden = 4;

// A token is a byte; 256 is the end-of-sequence token, a special one. A chat is
// "<role>content" for each message, with its calls of tools, and "<assistant>" after them; "<n
// tools>" before them when there are any.
class ByteCodec final : public TextCodec {
 public:
  Result<std::vector<int32_t>> encode(std::string_view text,
                                      bool add_special_tokens) const override;
  Result<std::vector<int32_t>> encode_chat(const nlohmann::ordered_json& messages,
                                           const ChatPromptOptions& options) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override;
  std::unique_ptr<TextStream> open_stream(const TextStreamOptions& options,
                                          const std::vector<int32_t>& prompt_ids) const override;
};

// Says a script to every request, a token an event, on a thread of its own. Choice c of a request
// gets the script from its c-th byte on. An embedding counts the prompt's tokens by their remainder
// of its size.
class FakeService final : public InferenceService {
 public:
  enum class Mode : uint8_t {
    kScript,   // the script, then end-of-sequence
    kEndless,  // the script again and again, whole in each event, until cancelled
    kSilent,   // nothing until release()
    kBreak,    // two tokens, then an error
  };

  FakeService();
  ~FakeService() override;

  Result<RequestId> submit(GenerateRequest request, EventHandler on_event) override;
  void cancel(RequestId id, FinishReason counted_as) override;
  ServiceStatus status() const override;
  std::shared_ptr<const ServedWeights> weights() const override;
  void sleep(SleepMode mode, SleepHandler on_end) override;
  void wake_up(SleepHandler on_end) override;

  // Why no change of sleep succeeds, or "".
  void set_sleep_failure(std::string failure);
  // Of the last sleep.
  SleepMode sleep_mode() const;
  void set_script(std::string script);
  void set_mode(Mode mode);
  void set_status(ServiceStatus status);
  void set_weights(ServedWeights weights);
  void set_refusal(std::optional<Error> refusal);
  // So many at once, then the queue is full.
  void set_capacity(size_t capacity);
  void set_hidden_size(int32_t hidden_size);
  void release() { set_mode(Mode::kScript); }

  std::vector<GenerateRequest> requests() const;
  // Each waits at most 20 s.
  bool wait_for_requests(size_t n);
  bool wait_for_cancels(size_t n);
  size_t most_at_once() const;
  // How the last cancelled request was to be counted.
  FinishReason last_cancel() const;

 private:
  struct Running {
    GenerateRequest request;
    EventHandler on_event;
    int32_t n_output = 0;
  };

  void run();
  std::optional<GenerateEvent> next_event(Running& running) const;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Mode mode_ = Mode::kScript;
  FinishReason last_cancel_ = FinishReason::kNone;
  std::string script_ = "Once upon a time";
  ServiceStatus status_;
  std::shared_ptr<const ServedWeights> weights_ = std::make_shared<ServedWeights>();
  std::optional<Error> refusal_;
  std::string sleep_failure_;
  SleepMode sleep_mode_ = SleepMode::kAbort;
  size_t capacity_ = SIZE_MAX;
  size_t most_at_once_ = 0;
  int32_t hidden_size_ = kFakeHidden;
  std::vector<GenerateRequest> requests_;
  std::map<RequestId, Running> running_;
  size_t n_cancels_ = 0;
  RequestId last_id_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

ModelInfo fake_model();

// A server over the fakes, on a free port.
struct TestServer {
  explicit TestServer(const HttpLimits& limits = {}, Journal* journal = nullptr,
                      int32_t journal_grace_s = 30, HttpAccess access = {},
                      BatchStore* batches = nullptr, ModelInfo model = fake_model());
  static TestServer of(ModelInfo model) {
    return TestServer({}, nullptr, 30, {}, nullptr, std::move(model));
  }

  FakeService service;
  ByteCodec codec;
  Metrics metrics;
  ApiServer server;

  uint16_t port() const { return server.port(); }
};

}  // namespace trireme
