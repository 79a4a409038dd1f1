#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "coordinator/cli/cluster_options.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/nearest.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ClusterFileTest : public testing::Test {
 protected:
  ~ClusterFileTest() override { std::filesystem::remove(path_); }

  ClusterOptions read(const std::string& text, const std::vector<std::string>& given = {},
                      ClusterOptions options = {}) {
    std::ofstream(path_) << text;
    read_cluster_file(path_, given, options);
    return options;
  }
  std::string refusal(const std::string& text) {
    try {
      read(text);
    } catch (const EnvironmentError& error) {
      return error.what();
    }
    return "";
  }

  std::filesystem::path path_ = std::filesystem::temp_directory_path() /
                                ("trireme-cluster-" + std::to_string(getpid()) + ".yaml");
};

TEST_F(ClusterFileTest, ReadsEveryKey) {
  const ClusterOptions o = read(
      "model: demo\nserved_model_name: tales\ntp: 2\npp: 3\nmin_ranks: 5\nreplicas: 4\nthreads: 5\n"
      "dtype: float32\ncontext_length: 100\nmax_sequences: 6\nmax_batch_tokens: 70\nkv_gib: 1.5\n"
      "kv_dtype: int8\n"
      "journal: /j\njournal_retention: 7\njournal_grace: 8\njournal_mib: 9\n"
      "host: 0.0.0.0\nport: 81\ncontrol_address: 10.0.0.1\ncontrol_port: 82\n"
      "enable_sleep_mode: true\n"
      "control_tls: 'on'\napi_keys: /k\nprotect_metrics: true\ntls_cert: /c\ntls_key: /t\n"
      "log_requests: true\nmax_waiting: 9\nitl_target_ms: 10\nrequest_timeout_ms: "
      "11\nwrite_timeout_ms: 12\n"
      "tool_call_parser: hermes\nreasoning_parser: think\n"
      "launcher: {kind: mpirun, hosts: [a, 'b:4'], mpirun_args: [--mca, x, '1']}\n"
      "deadlines: {launch_ms: 900, max_crashes: 7, sleep_ms: 901}\n");
  EXPECT_EQ(o.model, "demo");
  EXPECT_EQ(o.served_name, "tales");
  EXPECT_EQ(o.layout, (Layout{2, 3}));
  EXPECT_EQ(o.min_ranks, 5);
  EXPECT_EQ(o.n_replicas, 4);
  EXPECT_EQ(o.n_threads, 5);
  EXPECT_EQ(o.format, WeightFormat::kF32);
  EXPECT_EQ(o.context_length, 100);
  EXPECT_EQ(o.max_sequences, 6);
  EXPECT_EQ(o.max_batch_tokens, 70);
  EXPECT_EQ(o.kv_gib, 1.5);
  EXPECT_EQ(o.kv_dtype, DType::kI8);
  EXPECT_EQ(o.journal.file, "/j");
  EXPECT_EQ(o.journal.retention_s, 7);
  EXPECT_EQ(o.journal.grace_s, 8);
  EXPECT_EQ(o.journal.mib, 9);
  EXPECT_EQ(o.host, "0.0.0.0");
  EXPECT_EQ(o.port, 81);
  EXPECT_EQ(o.control_address, "10.0.0.1");
  EXPECT_EQ(o.control_port, 82);
  EXPECT_EQ(o.control_tls, ControlTls::kOn);
  EXPECT_EQ(o.api_keys, "/k");
  EXPECT_TRUE(o.protect_metrics);
  EXPECT_TRUE(o.sleep_mode);
  EXPECT_EQ(o.tls_cert, "/c");
  EXPECT_EQ(o.tls_key, "/t");
  EXPECT_TRUE(o.log_requests);
  EXPECT_EQ(o.max_waiting, 9);
  EXPECT_EQ(o.itl_target_ms, 10);
  EXPECT_EQ(o.request_timeout_ms, 11);
  EXPECT_EQ(o.write_timeout_ms, 12);
  EXPECT_EQ(o.tool_call_parser, "hermes");
  EXPECT_EQ(o.reasoning_parser, "think");
  EXPECT_EQ(o.launcher, LauncherKind::kMpirun);
  EXPECT_THAT(o.hosts, ElementsAre("a", "b:4"));
  EXPECT_THAT(o.launcher_args, ElementsAre("--mca", "x", "1"));
  EXPECT_EQ(o.deadlines.launch_ms, 900);
  EXPECT_EQ(o.deadlines.max_crashes, 7);
  EXPECT_EQ(o.deadlines.sleep_ms, 901);
  EXPECT_EQ(o.deadlines.heartbeat_ms, 400);
}

TEST_F(ClusterFileTest, TheCommandLineWins) {
  ClusterOptions given;
  given.layout.tp = 7;
  const ClusterOptions o = read("tp: 2\npp: 3\nlauncher: mpirun\n", {"--tp", "--launcher"}, given);
  EXPECT_EQ(o.layout.tp, 7);
  EXPECT_EQ(o.layout.pp, 3);
  EXPECT_EQ(o.launcher, LauncherKind::kLocal);
}

TEST(ControlTlsTest, IsOnWhereOtherHostsCanReachTheAddress) {
  ClusterOptions options;
  options.launcher = LauncherKind::kMpirun;
  for (const char* address : {"127.0.0.1", "127.1.2.3", "::1", "localhost"}) {
    options.control_address = address;
    EXPECT_FALSE(uses_control_tls(options)) << address;
  }
  for (const char* address : {"0.0.0.0", "10.0.0.1", "::", "node-1", "192.168.127.1"}) {
    options.control_address = address;
    EXPECT_TRUE(uses_control_tls(options)) << address;
  }
  options.control_tls = ControlTls::kOff;
  EXPECT_FALSE(uses_control_tls(options));
  options.joined = true;
  EXPECT_THROW(uses_control_tls(options), EnvironmentError);
  options.control_tls = ControlTls::kAuto;
  EXPECT_TRUE(uses_control_tls(options));
  // Ranks started here dial loopback, whatever address was given.
  options.joined = false;
  options.launcher = LauncherKind::kLocal;
  EXPECT_FALSE(uses_control_tls(options));
  options.control_tls = ControlTls::kOn;
  EXPECT_TRUE(uses_control_tls(options));
}

TEST_F(ClusterFileTest, NamesWhatIsWrong) {
  EXPECT_THAT(refusal("replcas: 2\n"), HasSubstr("did you mean 'replicas'"));
  EXPECT_THAT(refusal("tp: many\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal("tp: [\n"), HasSubstr(path_.string()));
  EXPECT_THAT(refusal("launcher: {kind: pigeon}\n"), HasSubstr("pigeon"));
  EXPECT_THAT(refusal("launcher: {post: x}\n"), HasSubstr("launcher.post"));
  EXPECT_THAT(refusal("- tp\n"), HasSubstr("map"));
  EXPECT_THAT(refusal("dtype: int3\n"), HasSubstr("bfloat16"));
}

TEST(Nearest, FindsWhatWasMeant) {
  const std::vector<std::string> options = {"--port", "--pp", "--prompt", "--threads"};
  EXPECT_EQ(nearest("--prot", options), "--port");
  EXPECT_EQ(nearest("--thread", options), "--threads");
  EXPECT_EQ(nearest("--completely-else", options), "");
}

TEST(DiffSide, Parses) {
  const DiffSide side = parse_diff_side("2x3:float32:avx2");
  EXPECT_EQ(side.layout, (Layout{2, 3}));
  EXPECT_EQ(side.format, WeightFormat::kF32);
  EXPECT_EQ(side.kernels, "avx2");
  EXPECT_EQ(parse_diff_side("1x1").format, WeightFormat::kBF16);
  for (const char* bad : {"", "2", "2x", "x2", "2x2:int3", "2x2:float32:avx2:more", "ax2"}) {
    EXPECT_THROW(parse_diff_side(bad), EnvironmentError) << bad;
  }
}

}  // namespace
}  // namespace trireme
