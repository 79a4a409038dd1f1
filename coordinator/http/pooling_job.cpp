#include "coordinator/http/pooling_job.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "coordinator/handover/api_state.h"
#include "coordinator/http/embedding.h"
#include "model/classifier_head.h"

namespace trireme {
namespace {

constexpr size_t kWindow = 32;  // inputs in the service at a time
// A longer answer is kept here until the client takes it, and counts as under way until then.
constexpr size_t kMostAtOnceBytes = 4U << 20;

class LongAnswer final : public BodySource {
 public:
  LongAnswer(std::string body, std::shared_ptr<void> numbers)
      : body_(std::move(body)), numbers_(std::move(numbers)) {}
  uint64_t size_bytes() const override { return body_.size(); }
  std::string read(size_t max_bytes) override {
    std::string piece = body_.substr(n_read_, max_bytes);
    n_read_ += piece.size();
    return piece;
  }

 private:
  const std::string body_;
  const std::shared_ptr<void> numbers_;
  size_t n_read_ = 0;
};

}  // namespace

PoolingJob::PoolingJob(PoolingCall call, Parts parts)
    : parts_(std::move(parts)),
      weights_(parts_.context->service.weights()),
      call_(std::move(call)),
      vectors_(call_.inputs.size()),
      in_flight_(call_.inputs.size()) {}

void PoolingJob::start() {
  parts_.responder->on_disconnect([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->parts_.context->pool->post([self] {
      const std::lock_guard lock(self->mutex_);
      self->cancel_all();
    });
  });
  const std::lock_guard lock(mutex_);
  submit_some();
}

void PoolingJob::submit_some() {
  while (!ended_ && n_submitted_ < in_flight_.size() && n_submitted_ - n_done_ < kWindow) {
    if (!submit(n_submitted_)) return;
    ++n_submitted_;
  }
}

// False: not now, or the whole request failed.
bool PoolingJob::submit(size_t index) {
  GenerateRequest request;
  request.prompt_ids = call_.inputs[index];
  request.max_new_tokens = 0;
  request.want_embedding = true;
  request.priority = call_.priority;
  request.tenant = call_.tenant;
  request.cache_salt = call_.cache_salt;
  request.weights = weights_;
  const Result<RequestId> id = parts_.context->service.submit(
      std::move(request), [self = shared_from_this(), index](GenerateEvent&& event) {
        if (event.finish == FinishReason::kNone) return;
        self->parts_.context->pool->post([self, index, event = std::move(event)]() mutable {
          const std::lock_guard lock(self->mutex_);
          self->on_event(index, std::move(event));
        });
      });
  if (id) {
    in_flight_[index] = *id;
    call_.inputs[index] = {};
    return true;
  }
  // A full queue: it goes on when one of its own inputs is done.
  const bool goes_on = id.error().param == "queue" && n_submitted_ > n_done_;
  if (!goes_on) fail(submit_refusal(*parts_.context, id.error()));
  return false;
}

void PoolingJob::on_event(size_t index, GenerateEvent&& event) {
  if (ended_) return;
  in_flight_[index] = 0;
  if (is_failure(event)) return fail(failure_of(event));
  if (!all_finite(event.embedding)) {
    return fail({.status = 500,
                 .message = "the model gave a hidden state that is not a number",
                 .param = "",
                 .code = "not_a_number"});
  }
  vectors_[index] = call_.classifier != nullptr ? call_.classifier->probabilities(event.embedding)
                                                : make_embedding(std::move(event.embedding),
                                                                 call_.dimensions, call_.normalize);
  ++n_done_;
  n_done_ == vectors_.size() ? finish() : submit_some();
}

void PoolingJob::finish() {
  ended_ = true;
  HttpResponse response;
  response.body = parts_.kind->format(call_,
                                      {.id = draw_answer_id(parts_.kind->id_prefix),
                                       .created = static_cast<int64_t>(std::time(nullptr)),
                                       .model = parts_.context->model.id},
                                      vectors_);
  vectors_ = {};
  parts_.key_lease.reset();
  if (response.body.size() > kMostAtOnceBytes) {
    response.source =
        std::make_shared<LongAnswer>(std::exchange(response.body, {}), parts_.numbers);
  }
  parts_.responder->reply(std::move(response));
}

void PoolingJob::fail(const ApiError& error) {
  cancel_all();
  parts_.responder->reply(api_error_response(error));
}

void PoolingJob::cancel_all() {
  ended_ = true;
  parts_.key_lease.reset();
  for (RequestId& id : in_flight_) {
    if (id != 0) parts_.context->service.cancel(id, FinishReason::kCancelled);
    id = 0;
  }
}

std::optional<PoolingState> PoolingJob::state() {
  const std::lock_guard lock(mutex_);
  const int connection = parts_.responder->descriptor();
  if (ended_ || connection < 0) return std::nullopt;
  return PoolingState{.endpoint = parts_.kind->path,
                      .key_name = parts_.request.key_name,
                      .body = parts_.request.body,
                      .connection = connection};
}

}  // namespace trireme
