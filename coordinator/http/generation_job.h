#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/http/answer_keeper.h"
#include "coordinator/http/answer_writer.h"
#include "coordinator/http/api_error.h"
#include "coordinator/http/beam_search.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/http_message.h"
#include "coordinator/http/key_accounts.h"
#include "coordinator/http/reply_format.h"
#include "coordinator/http/task_pool.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

struct AnswerState;

// How an answer is known: by its request's path, its id, and when it began (seconds since 1970).
struct AnswerName {
  std::string endpoint;
  std::string id;
  int64_t created = 0;
};

// What an event says that ends its request without an answer: kError or kCancelled.
bool is_failure(const GenerateEvent& event);
ApiError failure_of(const GenerateEvent& event);

// One generation request from its sequences' submission to its answer's end. The service's events
// are only queued on the service's thread; text and JSON are made on the handler threads, one
// task of a job at a time.
//
// A kept job (one with a journal) outlives its client's connection: for the grace time, or for good
// when a coordinator before this one began it. What was drawn is in the journal's log before a
// client hears of it, so another client can be given the rest from any position on.
class GenerationJob : public std::enable_shared_from_this<GenerationJob> {
 public:
  struct Kept {
    std::shared_ptr<AnswerKeeper> keeper;
    Journal::EntryPtr entry;
  };
  struct Parts {
    InferenceService& service;
    const TextCodec& codec;
    std::shared_ptr<TaskPool> pool;
    std::shared_ptr<const ServedWeights> weights;  // until all choices are submitted
    ResponderPtr responder;                        // null: nobody listens yet
    AnswerName name;
    std::function<std::unique_ptr<ReplyFormat>()> make_format;  // of one answer or stream
    // How a refusal of the service is said in HTTP.
    std::function<ApiError(const Error&)> refusal;
    std::optional<Kept> kept;
    KeyAccounts::Lease key_lease;  // until all is generated; null: it does not count
  };

  GenerationJob(GenerationCall call, Parts parts);
  // Goes on from the entry's log, if there is one.
  void start();

  // Of a kept job: how its request came.
  const JournaledRequest& kept_request() const;
  // Where a client of this answer was; an error when it is no event's id.
  Result<StreamPosition> parse_position(const std::string& last_event_id) const;
  // Of a kept job. The client is given the stream from a position on, and a client before it no
  // more.
  void attach(ResponderPtr responder, StreamPosition from);
  // The whole answer, or 202 while there is more to come.
  void reply_whole(ResponderPtr responder);
  // Ends it, unless a client is there.
  void give_up();

  // ---- a handover to another program in this process (coordinator/handover) ----
  // While no task of it runs. None: it has ended, or there is nobody to end it for.
  std::optional<AnswerState> state() const;
  // Instead of start(): as another job was. `listen` has the service tell a request's events here,
  // or says that it does not know the request.
  using Listen = std::function<bool(RequestId, InferenceService::EventHandler)>;
  void take_over(const AnswerState& answer, const Listen& listen);

 private:
  struct Choice {
    RequestId request_id = 0;
    bool done = false;
    bool told = true;  // a kept one: once the journal holds its first tokens
    ChoiceLog log;     // of one that is not kept
  };
  // Of one prompt, with call_.beam_search, while it goes on.
  struct Search {
    std::optional<BeamSearch> beams;
    std::vector<std::vector<TokenLogprob>> next;  // of each live beam, once told
    std::vector<RequestId> requests;              // one for each live beam; 0: done
    size_t n_open = 0;                            // of them
    GenerateEvent told;                           // numerics and the prompt's logprobs
    std::shared_ptr<const ServedWeights> weights;
  };

  // On the pool, in order; the job lives as long as it has tasks to run. A task that held the job
  // would keep it, and be kept by it, for ever when the pool stops first.
  void post(std::function<void()> task);
  void run_tasks();

  void submit_all();
  bool submit(int index, const std::shared_ptr<const ServedWeights>& weights);
  InferenceService::EventHandler handler(int index);
  const ChoiceLog& log(int index) const;
  GenerateRequest make_request(int index) const;
  void listen_to_client();
  void client_went(int client);
  void on_event(int index, GenerateEvent event);
  void write(int index, const GenerateEvent& event);
  bool failed(const GenerateEvent& event);

  void start_searches();
  void submit_beams(size_t prompt);
  void on_beam(size_t prompt, size_t beam, GenerateEvent event);
  void tell_beams(size_t prompt);
  void cancel_searches();

  void keep();
  void listen_to_journal();
  void on_written();
  void tell_logged(int index);
  void replay(AnswerWriter& writer, const StreamPosition& from) const;
  void serve_client(const ResponderPtr& responder, const StreamPosition& from);
  AnswerWriter make_writer(AnswerWriter::Options options) const;
  // In the form that the client, if there is one, asked for. It has what is before `from`.
  void begin_writing(const StreamPosition& from);

  void finish_answer();
  void fail(const ApiError& error);
  void give_up_now();
  void end_kept(JournaledEnd end);
  void cancel_all();
  void flush();

  const GenerationCall call_;
  Parts parts_;
  std::vector<Choice> choices_;   // index = prompt * n + choice
  std::vector<Search> searches_;  // by prompt; empty: no beam search
  std::unique_ptr<AnswerWriter> writer_;
  int client_ = 0;          // counts them
  int n_open_ = 0;          // choices not done
  bool streaming_ = false;  // the head of the stream is out
  bool told_any_ = false;   // a client knows the answer's id, or may
  bool ended_ = false;      // nothing more is generated
  JournaledEnd end_;        // how, once ended

  std::atomic<bool> abandoned_{false};  // events still queued are not worth their text

  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // under mutex_
  bool scheduled_ = false;                    // under mutex_
};

}  // namespace trireme
