#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/http_message.h"
#include "coordinator/http/reply_format.h"
#include "coordinator/http/task_pool.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

// One generation request from its sequences' submission to its answer's end. The service's events
// are only queued on the service's thread; text and JSON are made on the handler threads, one
// task of a job at a time.
class GenerationJob : public std::enable_shared_from_this<GenerationJob> {
 public:
  struct Parts {
    InferenceService& service;
    const TextCodec& codec;
    std::shared_ptr<TaskPool> pool;
    ResponderPtr responder;
    std::unique_ptr<ReplyFormat> format;
    // How a refusal of the service is said in HTTP.
    std::function<ApiError(const Error&)> refusal;
  };

  GenerationJob(GenerationCall call, Parts parts);
  void start();

 private:
  struct Choice {
    RequestId request_id = 0;
    bool done = false;
    bool opened = false;  // its stream has begun
    std::unique_ptr<TextStream> text;
    ChoiceText whole;  // without streaming: all of it
    int64_t text_offset = 0;
  };

  void post(std::function<void()> task);
  void run_tasks();

  void submit_all();
  GenerateRequest make_request(int index) const;
  const Prompt& prompt_of(int index) const { return call_.prompts[index / call_.n]; }
  void on_event(int index, GenerateEvent event);
  ChoiceText open_part(int index, const GenerateEvent& event);
  void add_tokens(int index, const GenerateEvent& event, ChoiceText* part);
  bool is_silent_stop(const GenerateEvent& event, size_t i) const;
  void deliver(int index, ChoiceText part);
  void finish_answer();
  void fail(const ApiError& error);
  void cancel_all();
  void flush();

  const GenerationCall call_;
  Parts parts_;
  std::vector<Choice> choices_;  // index = prompt * n + choice
  Usage usage_;
  int n_open_ = 0;          // choices not done
  bool streaming_ = false;  // the head of the stream is out
  bool ended_ = false;      // nothing more is sent
  std::string outgoing_;    // events of the batch in progress

  std::atomic<bool> client_gone_{false};  // events still queued are not worth their text

  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // under mutex_
  bool scheduled_ = false;                    // under mutex_
};

}  // namespace trireme
