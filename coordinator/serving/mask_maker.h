#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/serving/sequence.h"
#include "coordinator/serving/token_guide.h"

namespace trireme {

// Where one request is in its grammar. What its token log has is pushed into the guide before each
// mask, so that nothing needs to be done about it when ranks are lost, sequences preempted or
// moved.
struct GuidedRequest {
  GuidedRequest(const boost::asio::any_io_executor& executor, Grammar of_request)
      : work(executor), grammar(std::move(of_request)) {}

  boost::asio::strand<boost::asio::any_io_executor> work;
  const Grammar grammar;
  int32_t n_given = 0;  // tokens of the log that were given to `work`; the service's thread
  // In `work` only:
  std::unique_ptr<TokenGuide> guide;
  std::string failure;  // there is no guide, for good
};

// Makes the masks of plans that were sent, on threads of its own while the ranks compute. The
// service's thread calls it.
class MaskMaker {
 public:
  // One sequence's mask, to be made.
  struct Order {
    std::shared_ptr<GuidedRequest> request;
    TokenMask mask;               // without words
    std::vector<int32_t> tokens;  // since the last order
  };
  // On the service's thread. `failure`: why the mask has no words.
  using OnMade = std::function<void(TokenMask&& mask, const std::string& failure)>;

  // n_threads 0: on the service's thread. `guides` null: every order fails.
  MaskMaker(boost::asio::io_context& io, std::shared_ptr<const GuideMaker> guides,
            int32_t vocab_size, int n_threads);

  // For a sequence of a plan. `request` is made with the first one.
  Order order(std::shared_ptr<GuidedRequest>& request, const StepPlan& plan, RequestId id,
              const TokenLog& log);
  void make(Order order, OnMade on_made);

 private:
  std::string follow(Order& order) const;

  boost::asio::io_context& io_;
  const std::shared_ptr<const GuideMaker> guides_;
  const size_t n_words_;
  std::optional<boost::asio::thread_pool> threads_;  // ends first: its work refers to the rest
};

}  // namespace trireme
