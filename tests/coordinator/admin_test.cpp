#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "coordinator/admin/admin_client.h"
#include "coordinator/admin/admin_server.h"
#include "kernels/result.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class Admin : public testing::Test {
 protected:
  std::filesystem::path new_folder(const std::string& name) const {
    std::filesystem::create_directories(base_ / name);
    return base_ / name;
  }
  std::string ask(const std::string& command, const Json& arguments, int64_t pid = 0) {
    return ask_server(base_.path(), pid, command, arguments, std::chrono::seconds(20),
                      [this](const std::string& line) { told_.push_back(line); });
  }
  std::string refusal(const std::string& command, int64_t pid = 0) {
    try {
      ask(command, Json::object(), pid);
    } catch (const EnvironmentError& error) {
      return error.what();
    }
    return "";
  }

  const TempFolder base_;
  std::vector<std::string> told_;
};

std::map<std::string, AdminServer::Handler> handlers() {
  return {{"say",
           [](const Json& arguments, const AdminServer::Tell& tell) {
             tell("one");
             tell("two\nlines");
             return arguments.value("word", "");
           }},
          {"fail", [](const Json&, const AdminServer::Tell&) -> std::string {
             throw EnvironmentError("no such thing; do the other");
           }}};
}

TEST_F(Admin, CarriesOutCommands) {
  // Longer than a socket's path may be.
  const AdminServer server(new_folder("trireme-run-" + std::string(150, 'x')), handlers());
  for (int i = 0; i < 3; ++i) {
    told_.clear();
    EXPECT_EQ(ask("say", {{"word", "größer"}}), "größer");
    EXPECT_THAT(told_, testing::ElementsAre("one", "two\nlines"));
  }
  EXPECT_EQ(ask("say", {{"word", "x"}}, getpid()), "x");
  EXPECT_EQ(refusal("fail"), "no such thing; do the other");
  EXPECT_EQ(refusal("other"), "this server knows no such command");
}

TEST_F(Admin, SaysWhichServerToName) {
  EXPECT_THAT(refusal("say"), HasSubstr("no server of this user listens in"));
  std::ofstream(new_folder("trireme-run-dead__") / "admin") << "no socket";
  EXPECT_THAT(refusal("say"), HasSubstr("no server of this user listens in"));
  const AdminServer one(new_folder("trireme-run-1"), handlers());
  EXPECT_THAT(refusal("say", 1), HasSubstr("no server with the process id 1 of this user"));
  const AdminServer two(new_folder("trireme-run-2"), handlers());
  EXPECT_THAT(refusal("say"), HasSubstr("more than one server runs: name one with --pid, of"));
}

TEST_F(Admin, OneCommandAtATime) {
  std::promise<void> begun;
  std::promise<void> go_on;
  auto all = handlers();
  all["wait"] = [&](const Json&, const AdminServer::Tell&) {
    begun.set_value();
    go_on.get_future().wait_for(std::chrono::seconds(20));
    return std::string("waited");
  };
  const AdminServer server(new_folder("trireme-run-1"), all);
  std::string answer;
  std::thread first([&] { answer = ask("wait", Json::object()); });
  begun.get_future().wait_for(std::chrono::seconds(20));
  EXPECT_EQ(refusal("say"), "another command is under way; try again when it has ended");
  go_on.set_value();
  first.join();
  EXPECT_EQ(answer, "waited");
  EXPECT_EQ(ask("say", {{"word", "x"}}), "x");
}

TEST_F(Admin, OddWordsHurtNobody) {
  const auto folder = new_folder("trireme-run-1");
  const AdminServer server(folder, handlers());
  for (const Json& arguments : {Json(1), Json("x"), Json::array({1}), Json(nullptr)}) {
    EXPECT_NE(refusal("other"), "");
    EXPECT_ANY_THROW(ask("say", arguments));
  }
  EXPECT_EQ(ask("say", {{"word", "x"}}), "x");
}

}  // namespace
}  // namespace trireme
