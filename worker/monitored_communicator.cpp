#include "worker/monitored_communicator.h"

#include <chrono>
#include <utility>

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

class MonitoredCommunicator final : public Communicator {
 public:
  MonitoredCommunicator(std::unique_ptr<Communicator> inner, RankLink& link)
      : inner_(std::move(inner)), link_(link) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void abort() noexcept override { inner_->abort(); }

  void all_reduce_tree(Stream stream, const TreePlan& plan, Tensor partials, Tensor out) override {
    const Wait wait(link_, WaitOp::kAllReduce, -1);
    inner_->all_reduce_tree(stream, plan, partials, out);
  }
  void all_gather(Stream stream, Tensor out, Tensor in) override {
    const Wait wait(link_, WaitOp::kAllGather, -1);
    inner_->all_gather(stream, out, in);
  }
  void send(Stream stream, Tensor tensor, int peer) override {
    const Wait wait(link_, WaitOp::kSend, peer);
    inner_->send(stream, tensor, peer);
  }
  void recv(Stream stream, Tensor tensor, int peer) override {
    const Wait wait(link_, WaitOp::kRecv, peer);
    inner_->recv(stream, tensor, peer);
  }

 private:
  // The time of one call. After an exception the rank ends, so what this says then is not read.
  class Wait {
   public:
    // Only stages send to each other and receive.
    Wait(RankLink& link, WaitOp op, int peer)
        : link_(link),
          with_stage_(op == WaitOp::kSend || op == WaitOp::kRecv),
          since_(Clock::now()) {
      link_.set_activity(RankActivity::kWaiting, static_cast<int32_t>(op), peer);
    }
    ~Wait() {
      const auto us = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since_);
      link_.add_comm_us(static_cast<uint64_t>(us.count()), with_stage_);
      link_.set_activity(RankActivity::kComputing);
      link_.tick();
    }
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

   private:
    RankLink& link_;
    const bool with_stage_;
    Clock::time_point since_;
  };

  std::unique_ptr<Communicator> inner_;
  RankLink& link_;
};

}  // namespace

std::unique_ptr<Communicator> monitor(std::unique_ptr<Communicator> inner, RankLink& link) {
  return std::make_unique<MonitoredCommunicator>(std::move(inner), link);
}

}  // namespace trireme
