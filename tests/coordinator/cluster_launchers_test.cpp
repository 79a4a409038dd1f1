#include "coordinator/cluster/launchers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

LaunchSpec spec_of(LauncherKind kind, int tp, int pp) {
  LaunchSpec spec;
  spec.launcher = kind;
  spec.job.layout = {.tp = tp, .pp = pp};
  spec.executable = "/opt/trireme";
  spec.secret = "s3cret";
  spec.control_address = "10.0.0.9";
  return spec;
}

const LaunchContext kContext{
    .epoch = 7, .port = 4000, .region_fd = 5, .epoch_folder = "/run/t/r0e7"};

std::vector<std::string> slots(int tp, int pp, const std::vector<std::string>& hosts) {
  std::vector<std::string> out;
  for (const HostSlots& host : place_ranks({.tp = tp, .pp = pp}, hosts)) {
    out.push_back(host.host + "=" + std::to_string(host.n_slots));
  }
  return out;
}

// The argument after `option`.
std::string value_of(const std::vector<std::string>& argv, const std::string& option) {
  const auto found = std::find(argv.begin(), argv.end(), option);
  return found == argv.end() || found + 1 == argv.end() ? "" : *(found + 1);
}

TEST(ClusterLaunchers, StagesStayWholeWhereTheyCan) {
  EXPECT_THAT(slots(2, 2, {"a", "b"}), ElementsAre("a=2", "b=2"));
  EXPECT_THAT(slots(3, 3, {"a", "b"}), ElementsAre("a=3", "b=6"));
  EXPECT_THAT(slots(1, 5, {"a", "b", "c"}), ElementsAre("a=1", "b=2", "c=2"));
  EXPECT_THAT(slots(4, 1, {"a", "b"}), ElementsAre("a=2", "b=2"));
  EXPECT_THAT(slots(2, 1, {"a", "b", "c"}), ElementsAre("b=1", "c=1"));
  EXPECT_THAT(slots(2, 2, {"a:3", "b"}), ElementsAre("a=3", "b=1"));
}

TEST(ClusterLaunchers, EveryPlacementSeatsEveryRank) {
  for (int tp = 1; tp <= 4; ++tp) {
    for (int pp = 1; pp <= 4; ++pp) {
      for (int n_hosts = 1; n_hosts <= 6; ++n_hosts) {
        std::vector<std::string> hosts;
        for (int h = 0; h < n_hosts; ++h) hosts.push_back("h" + std::to_string(h));
        int n_slots = 0;
        for (const HostSlots& host : place_ranks({.tp = tp, .pp = pp}, hosts)) {
          EXPECT_GT(host.n_slots, 0);
          n_slots += host.n_slots;
        }
        EXPECT_EQ(n_slots, tp * pp) << tp << "x" << pp << " on " << n_hosts;
      }
    }
  }
}

TEST(ClusterLaunchers, LocalStartsOneProcessPerRank) {
  const auto commands = launch_commands(spec_of(LauncherKind::kLocal, 2, 1), kContext);
  ASSERT_EQ(commands.size(), 2U);
  EXPECT_THAT(commands[1].argv,
              ElementsAre("/opt/trireme", "worker", "--comm", "region", "--coordinator",
                          "127.0.0.1:4000", "--rank", "1", "--world", "2", "--region-fd", "5"));
  EXPECT_EQ(commands[1].name, "rank 1");
  EXPECT_EQ(commands[1].death_signal, SIGKILL);
  EXPECT_THAT(commands[1].environment,
              ElementsAre(std::pair("TRIREME_SECRET", "s3cret"), std::pair("TRIREME_REPLICA", "0"),
                          std::pair("TRIREME_EPOCH", "7")));
}

TEST(ClusterLaunchers, MpirunPlacesRanksAndKeepsTheSecretOffTheCommandLine) {
  LaunchSpec spec = spec_of(LauncherKind::kMpirun, 2, 2);
  spec.hosts = {"a", "b"};
  spec.launcher_args = {"--mca", "plm_rsh_agent", "my agent"};
  const auto commands = launch_commands(spec, kContext);
  ASSERT_EQ(commands.size(), 1U);
  const std::vector<std::string>& argv = commands[0].argv;
  EXPECT_EQ(argv[0], "mpirun");
  EXPECT_EQ(value_of(argv, "-np"), "4");
  EXPECT_EQ(value_of(argv, "--host"), "a:2,b:2");
  EXPECT_EQ(value_of(argv, "--map-by"), "slot:OVERSUBSCRIBE");
  EXPECT_EQ(value_of(argv, "--bind-to"), "none");
  EXPECT_EQ(value_of(argv, "mpi_yield_when_idle"), "1");
  EXPECT_EQ(value_of(argv, "odls_base_sigkill_timeout"), "0");
  EXPECT_EQ(value_of(argv, "btl_vader_backing_directory"), "/run/t/r0e7");
  EXPECT_EQ(value_of(argv, "orte_tmpdir_base"), "/run/t/r0e7");
  EXPECT_EQ(value_of(argv, "plm_rsh_agent"), "my agent");
  for (const std::string& argument : argv) EXPECT_THAT(argument, Not(HasSubstr("s3cret")));
  const std::vector<std::string> tail(argv.end() - 6, argv.end());
  EXPECT_THAT(tail, ElementsAre("/opt/trireme", "worker", "--comm", "mpi", "--coordinator",
                                "10.0.0.9:4000"));
  const bool root = geteuid() == 0;
  EXPECT_EQ(std::count(commands[0].environment.begin(), commands[0].environment.end(),
                       std::pair<std::string, std::string>("OMPI_ALLOW_RUN_AS_ROOT", "1")),
            root ? 1 : 0);
}

TEST(ClusterLaunchers, SrunAndExternal) {
  LaunchSpec spec = spec_of(LauncherKind::kSrun, 2, 2);
  spec.hosts = {"n1", "n2"};
  spec.launcher_args = {"--partition=x"};
  const auto commands = launch_commands(spec, kContext);
  ASSERT_EQ(commands.size(), 1U);
  EXPECT_THAT(
      commands[0].argv,
      ElementsAre("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "-n", "4", "--distribution=block",
                  "--cpu-bind=none", "--export=ALL", "--nodelist=n1,n2", "--partition=x",
                  "/opt/trireme", "worker", "--comm", "mpi", "--coordinator", "10.0.0.9:4000"));

  spec.launcher = LauncherKind::kExternal;
  EXPECT_TRUE(launch_commands(spec, kContext).empty());
  EXPECT_THAT(external_instructions(spec, 4000), HasSubstr("--coordinator 10.0.0.9:4000"));
}

TEST(ClusterLaunchers, AProbeSaysItsVersionOnItsHost) {
  LaunchContext context = kContext;
  context.is_probe = true;
  LaunchSpec spec = spec_of(LauncherKind::kMpirun, 1, 1);
  spec.hosts = {"a:2"};
  const std::vector<std::string> mpirun = launch_commands(spec, context)[0].argv;
  EXPECT_EQ(value_of(mpirun, "-np"), "1");
  EXPECT_EQ(value_of(mpirun, "--host"), "a:2");
  EXPECT_EQ(value_of(mpirun, "/opt/trireme"), "--version");
  spec.launcher = LauncherKind::kSrun;
  spec.hosts = {"a"};
  const std::vector<std::string> srun = launch_commands(spec, context)[0].argv;
  EXPECT_EQ(value_of(srun, "-n"), "1");
  EXPECT_EQ(std::count(srun.begin(), srun.end(), "--nodelist=a"), 1);
  EXPECT_EQ(value_of(srun, "/opt/trireme"), "--version");
}

TEST(ClusterLaunchers, IPv6AddressesGetBrackets) {
  EXPECT_EQ(dial_address(false, "::1", 80), "[::1]:80");
  EXPECT_EQ(dial_address(false, "host", 80), "host:80");
  EXPECT_EQ(dial_address(true, "10.0.0.9", 80), "tls://10.0.0.9:80");
}

TEST(ClusterLaunchers, ImpossibleSpecsAreNamed) {
  LaunchSpec spec = spec_of(LauncherKind::kMpirun, 2, 2);
  spec.hosts = {"a", "b"};
  EXPECT_EQ(launch_spec_problem(spec), "");
  spec.control_address = "127.0.0.1";
  EXPECT_THAT(launch_spec_problem(spec), HasSubstr("host a cannot reach"));
  spec.hosts = {"localhost:4"};
  EXPECT_EQ(launch_spec_problem(spec), "");
  spec.hosts = {"localhost:3"};
  EXPECT_THAT(launch_spec_problem(spec), HasSubstr("3 slots for the 4 ranks"));
}

TEST(ClusterLaunchers, TheMostTellingLineIsFound) {
  EXPECT_EQ(most_telling_line(""), "");
  EXPECT_EQ(most_telling_line("-----\n\n"), "");
  EXPECT_EQ(most_telling_line("first\nlast\n----\n"), "last");
  EXPECT_THAT(
      most_telling_line("ssh: Could not resolve hostname nosuch: Name or service not known\n"
                        "ORTE was unable to reliably start one or more daemons.\n"
                        "* not finding the required libraries\n"),
      HasSubstr("hostname nosuch: Name or service not known (check the name in --hosts)"));
  EXPECT_EQ(most_telling_line("trireme: rank 0 ends: the coordinator closed the connection\n"
                              "trireme: no room; bring more\n"
                              "mpirun noticed that process rank 0 exited\n"),
            "no room; bring more");
  EXPECT_LT(most_telling_line(std::string(100000, 'x')).size(), 400U);
  EXPECT_EQ(most_telling_line("a\x1b[31mred\n"), "a [31mred");
}

}  // namespace
}  // namespace trireme
