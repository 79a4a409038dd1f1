#include "coordinator/serving/mask_maker.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "kernels/int_math.h"

namespace trireme {

MaskMaker::MaskMaker(boost::asio::io_context& io, std::shared_ptr<const GuideMaker> guides,
                     int32_t vocab_size, int n_threads)
    : io_(io), guides_(std::move(guides)), n_words_(static_cast<size_t>(div_ceil(vocab_size, 32))) {
  if (n_threads > 0) threads_.emplace(n_threads);
}

MaskMaker::Order MaskMaker::order(std::shared_ptr<GuidedRequest>& request, const StepPlan& plan,
                                  RequestId id, const TokenLog& log) {
  if (!request) {
    const auto executor = threads_ ? boost::asio::any_io_executor(threads_->get_executor())
                                   : boost::asio::any_io_executor(io_.get_executor());
    request = std::make_shared<GuidedRequest>(executor, log.request.grammar);
  }
  Order order{.request = request,
              .mask = {.epoch = plan.epoch, .step_id = plan.step_id, .request_id = id, .words = {}},
              .tokens = {log.output_ids.begin() + request->n_given, log.output_ids.end()}};
  request->n_given = log.n_output();
  return order;
}

void MaskMaker::make(Order order, OnMade on_made) {
  auto& work = order.request->work;
  boost::asio::post(work, [this, order = std::move(order), on_made = std::move(on_made)]() mutable {
    std::string failure = follow(order);
    boost::asio::post(
        io_, [mask = std::move(order.mask), failure = std::move(failure),
              on_made = std::move(on_made)]() mutable { on_made(std::move(mask), failure); });
  });
}

// Why there is no mask, now and ever, or "".
std::string MaskMaker::follow(Order& order) const {
  GuidedRequest& request = *order.request;
  if (!request.failure.empty()) return request.failure;
  const auto failed = [&](const std::string& why) {
    request.guide.reset();
    order.mask.words.clear();
    return request.failure = why;
  };
  if (guides_ == nullptr) return failed("this server cannot follow grammars");
  if (!request.guide) {
    Result<std::unique_ptr<TokenGuide>> guide = guides_->make(request.grammar);
    if (!guide) return failed(guide.error().message);
    request.guide = *std::move(guide);
  }
  for (const int32_t token : order.tokens) {
    const Result<bool> pushed = request.guide->push(token);
    if (!pushed) return failed(pushed.error().message);
  }
  order.mask.words.assign(n_words_, 0);
  const Result<bool> masked = request.guide->mask(order.mask.words);
  return masked ? "" : failed(masked.error().message);
}

}  // namespace trireme
