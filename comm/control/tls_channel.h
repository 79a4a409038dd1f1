#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace trireme {

// Keys of one side, shared by its connections. Thread-safe.
class TlsContext {
 public:
  // For connections whose two ends know one secret: TLS 1.3 with a pre-shared key and an ephemeral
  // key exchange. The secret never crosses the network, each end proves to the other that it knows
  // it, and nothing recorded can be read when it becomes known later. Whoever records a handshake
  // can try guesses against it: the secret must be random.
  static std::shared_ptr<const TlsContext> server_by_secret(std::string_view secret);
  static std::shared_ptr<const TlsContext> client_by_secret(std::string_view secret);

  // For a public server, TLS 1.2 and later: PEM files with the certificate, followed by those that
  // lead to its issuer, and its private key. Throws EnvironmentError naming file and mend.
  static std::shared_ptr<const TlsContext> server_by_certificate(
      const std::filesystem::path& certificate, const std::filesystem::path& key);

  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsChannel;
  struct Impl;
  explicit TlsContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One end of one TLS connection, without its socket: bytes from the network go in, bytes for the
// network come out. Not thread-safe.
class TlsChannel {
 public:
  enum class Read { kBytes, kNeedMore, kEnd, kFailed };

  explicit TlsChannel(std::shared_ptr<const TlsContext> context);
  ~TlsChannel();
  TlsChannel(TlsChannel&&) noexcept;
  TlsChannel& operator=(TlsChannel&&) = delete;

  // Bytes from the network, all of them.
  void receive(std::span<const char> bytes);
  // Goes on with the handshake as far as the bytes lead; a client's first call begins it. False
  // when it failed: problem() says why. Send take_output() after it, either way.
  bool shake_hands();
  bool established() const;

  // Once established: up to room.size() bytes of what the other side said.
  Read read(std::span<char> room, size_t& n_bytes);
  // What to send so that the other side reads `plain`, after take_output(); empty when the
  // connection is broken. Only once established, unless there is nothing to say.
  std::string encrypt(std::string_view plain);
  // What must be sent besides: of the handshake, or why it failed.
  std::string take_output();
  bool has_output() const;
  // What tells the other side that nothing more comes.
  std::string close();

  const std::string& problem() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
