#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "coordinator/cluster/launchers.h"

namespace trireme {
namespace {

constexpr size_t kMaxLineBytes = 300;

// What launchers and the dynamic linker are known to write, most telling first.
struct KnownLine {
  const char* part;
  const char* mend;
};
constexpr KnownLine kKnownLines[] = {
    {"Could not resolve hostname", "check the name in --hosts"},
    {"Temporary failure in name resolution", "check the names in --hosts"},
    {"Host key verification failed", "accept the host's key once: ssh HOST true"},
    {"Permission denied (", "allow this user to log in there by key: ssh-copy-id HOST"},
    {"No route to host", "check that the host is up and the network reaches it"},
    {"Connection timed out", "check that the host is up and the network reaches it"},
    {"Connection refused", "check that the host runs sshd"},
    {"plm_rsh_agent", "install ssh here: apt-get install openssh-client"},
    {"There are not enough slots", "name more hosts, or slots as HOST:SLOTS"},
    {"error while loading shared libraries", "install that library on the host"},
    {"libmpi", "install OpenMPI: apt-get install openmpi-bin libopenmpi3"},
    {"unable to find the specified executable",
     "put the same binary at the same path on each host"},
    {"unable to launch the specified application",
     "put the same binary at the same path on each host"},
    {"ORTE was unable to reliably start one or more daemons",
     "check that OpenMPI is installed on every host and that ssh reaches it"},
    {"Unable to allocate resources", "check the Slurm allocation"},
    {"No space left on device", "free some"},
    {"Cannot allocate memory", "free some, or use fewer or smaller ranks"},
};

std::string trimmed(const std::string& line) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0 || c < 0x20; };
  const auto begin = std::find_if_not(line.begin(), line.end(), is_space);
  const auto end = std::find_if_not(line.rbegin(), line.rend(), is_space).base();
  std::string out = begin < end ? std::string(begin, end) : std::string();
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  if (out.size() > kMaxLineBytes) out = out.substr(0, kMaxLineBytes) + "...";
  return out;
}

bool says_something(const std::string& line) {
  return std::any_of(line.begin(), line.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0; });
}

}  // namespace

std::string most_telling_line(const std::string& output) {
  std::vector<std::string> lines;
  std::istringstream in(output);
  for (std::string line; std::getline(in, line);) {
    line = trimmed(line);
    if (says_something(line)) lines.push_back(std::move(line));
  }
  // What the program itself says of its end comes first: it names cause and mend. A rank that only
  // followed another into its end ("rank 2 ends: ...") says little.
  for (const std::string& line : lines) {
    if (line.rfind("trireme: ", 0) == 0 && line.find(" ends: ") == std::string::npos) {
      return line.substr(9);
    }
  }
  for (const KnownLine& known : kKnownLines) {
    for (const std::string& line : lines) {
      if (line.find(known.part) == std::string::npos) continue;
      return fmt::format("{} ({})", line, known.mend);
    }
  }
  for (const std::string& line : lines) {
    if (line.find("rror") != std::string::npos) return line;
  }
  return lines.empty() ? "" : lines.back();
}

}  // namespace trireme
