#include "comm/control/tls_channel.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "comm/control/secret_key.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr std::string_view kIdentity = "trireme";
constexpr std::string_view kKeyLabel = "trireme control connection";
constexpr std::array<unsigned char, 2> kCipher = {0x13, 0x01};  // the one named next
constexpr const char* kCipherName = "TLS_AES_128_GCM_SHA256";

// What OpenSSL says about the last failure of this thread.
std::string last_problem() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(code);
  ERR_clear_error();
  return reason != nullptr ? reason : "the connection is broken";
}

// Never asks the terminal for the password of a key.
int no_password(char*, int, int, void*) { return 0; }

int choose_http11(SSL*, const unsigned char** out, unsigned char* out_bytes,
                  const unsigned char* offered, unsigned int offered_bytes, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_bytes, kHttp11, sizeof(kHttp11) - 1, offered,
                            offered_bytes) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

struct TlsContext::Impl {
  SSL_CTX* context = nullptr;
  bool is_server = false;
  bool by_secret = false;
  SecretKey key{};

  ~Impl() { SSL_CTX_free(context); }

  static std::unique_ptr<Impl> make(bool is_server) {
    auto impl = std::make_unique<Impl>();
    impl->is_server = is_server;
    impl->context = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    TRIREME_CHECK(impl->context != nullptr);
    SSL_CTX_set_options(impl->context, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(impl->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(impl->context, SSL_MODE_RELEASE_BUFFERS);
    return impl;
  }

  static std::unique_ptr<Impl> make_by_secret(std::string_view secret, bool is_server) {
    auto impl = make(is_server);
    impl->by_secret = true;
    impl->key = derive_key(kKeyLabel, secret);
    SSL_CTX* context = impl->context;
    SSL_CTX_set_app_data(context, impl.get());
    TRIREME_CHECK(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1);
    TRIREME_CHECK(SSL_CTX_set_ciphersuites(context, kCipherName) == 1);
    SSL_CTX_set_num_tickets(context, 0);
    if (is_server) {
      SSL_CTX_set_psk_find_session_callback(context, find_session);
    } else {
      SSL_CTX_set_psk_use_session_callback(context, use_session);
      // A server that shows a certificate instead: there is none that this side would trust.
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    }
    return impl;
  }

  // What OpenSSL calls a pre-shared key; nullptr when there is no memory.
  SSL_SESSION* make_session(SSL* ssl) const {
    SSL_SESSION* session = SSL_SESSION_new();
    const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipher.data());
    if (session != nullptr && cipher != nullptr &&
        SSL_SESSION_set1_master_key(session, key.data(), key.size()) == 1 &&
        SSL_SESSION_set_cipher(session, cipher) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
      return session;
    }
    SSL_SESSION_free(session);
    return nullptr;
  }

  static const Impl& of(SSL* ssl) {
    return *static_cast<const Impl*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  }

  static int find_session(SSL* ssl, const unsigned char* identity, size_t n_bytes,
                          SSL_SESSION** session) {
    *session = nullptr;
    if (std::string_view(reinterpret_cast<const char*>(identity), n_bytes) != kIdentity) return 1;
    *session = of(ssl).make_session(ssl);
    return *session != nullptr ? 1 : 0;
  }

  static int use_session(SSL* ssl, const EVP_MD* digest, const unsigned char** identity,
                         size_t* n_bytes, SSL_SESSION** session) {
    *session = nullptr;
    if (digest != nullptr && EVP_MD_get_type(digest) != NID_sha256) return 1;
    *session = of(ssl).make_session(ssl);
    *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
    *n_bytes = kIdentity.size();
    return *session != nullptr ? 1 : 0;
  }
};

TlsContext::TlsContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsContext::~TlsContext() = default;

std::shared_ptr<const TlsContext> TlsContext::server_by_secret(std::string_view secret) {
  return std::shared_ptr<const TlsContext>(new TlsContext(Impl::make_by_secret(secret, true)));
}

std::shared_ptr<const TlsContext> TlsContext::client_by_secret(std::string_view secret) {
  return std::shared_ptr<const TlsContext>(new TlsContext(Impl::make_by_secret(secret, false)));
}

std::shared_ptr<const TlsContext> TlsContext::server_by_certificate(
    const std::filesystem::path& certificate, const std::filesystem::path& key) {
  for (const auto& path : {certificate, key}) {
    if (access(path.c_str(), R_OK) != 0) {
      throw EnvironmentError(
          fmt::format("{}: cannot be read: {}; give PEM files with --tls-cert and --tls-key",
                      path.string(), std::strerror(errno)));
    }
  }
  auto impl = Impl::make(/*is_server=*/true);
  SSL_CTX* context = impl->context;
  TRIREME_CHECK(SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1);
  // Of TLS 1.2 only what keeps recorded traffic unreadable when the key becomes known later.
  TRIREME_CHECK(SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1);
  SSL_CTX_set_alpn_select_cb(context, choose_http11, nullptr);
  SSL_CTX_set_default_passwd_cb(context, no_password);
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1) {
    throw EnvironmentError(fmt::format("--tls-cert {}: no certificate: {}; it must be a PEM file",
                                       certificate.string(), last_problem()));
  }
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1) {
    throw EnvironmentError(
        fmt::format("--tls-key {}: not the private key of {}: {}; it must be a PEM file without a "
                    "password",
                    key.string(), certificate.string(), last_problem()));
  }
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(impl)));
}

struct TlsChannel::Impl {
  std::shared_ptr<const TlsContext> context;
  bool by_secret = false;
  SSL* ssl = nullptr;
  BIO* from_network = nullptr;  // both owned by ssl
  BIO* to_network = nullptr;
  bool established = false;
  bool broken = false;
  std::string problem;

  ~Impl() { SSL_free(ssl); }

  void fail(std::string why) {
    broken = true;
    problem = std::move(why);
  }
};

TlsChannel::TlsChannel(std::shared_ptr<const TlsContext> context)
    : impl_(std::make_unique<Impl>()) {
  const TlsContext::Impl& keys = *context->impl_;
  impl_->by_secret = keys.by_secret;
  impl_->ssl = SSL_new(keys.context);
  impl_->from_network = BIO_new(BIO_s_mem());
  impl_->to_network = BIO_new(BIO_s_mem());
  TRIREME_CHECK(impl_->ssl != nullptr && impl_->from_network != nullptr &&
                impl_->to_network != nullptr);
  SSL_set_bio(impl_->ssl, impl_->from_network, impl_->to_network);
  keys.is_server ? SSL_set_accept_state(impl_->ssl) : SSL_set_connect_state(impl_->ssl);
  impl_->context = std::move(context);
}

TlsChannel::~TlsChannel() = default;
TlsChannel::TlsChannel(TlsChannel&&) noexcept = default;

void TlsChannel::receive(std::span<const char> bytes) {
  size_t n_taken = 0;
  if (bytes.empty() || impl_->broken) return;
  TRIREME_CHECK(BIO_write_ex(impl_->from_network, bytes.data(), bytes.size(), &n_taken) == 1 &&
                n_taken == bytes.size());
}

bool TlsChannel::shake_hands() {
  if (impl_->broken) return false;
  if (impl_->established) return true;
  ERR_clear_error();
  const int result = SSL_do_handshake(impl_->ssl);
  if (result == 1) {
    impl_->established = true;
    // Neither side of such a connection may get along without the secret.
    if (impl_->by_secret && SSL_session_reused(impl_->ssl) != 1) impl_->fail("no shared secret");
  } else if (SSL_get_error(impl_->ssl, result) != SSL_ERROR_WANT_READ) {
    impl_->fail(last_problem());
  }
  return !impl_->broken;
}

bool TlsChannel::established() const { return impl_->established && !impl_->broken; }

TlsChannel::Read TlsChannel::read(std::span<char> room, size_t& n_bytes) {
  TRIREME_CHECK(!room.empty());
  n_bytes = 0;
  if (impl_->broken) return Read::kFailed;
  ERR_clear_error();
  if (SSL_read_ex(impl_->ssl, room.data(), room.size(), &n_bytes) == 1) return Read::kBytes;
  switch (SSL_get_error(impl_->ssl, 0)) {
    case SSL_ERROR_WANT_READ: return Read::kNeedMore;
    case SSL_ERROR_ZERO_RETURN: return Read::kEnd;
    default: impl_->fail(last_problem()); return Read::kFailed;
  }
}

std::string TlsChannel::encrypt(std::string_view plain) {
  if (impl_->broken) return "";
  size_t n_taken = 0;
  ERR_clear_error();
  if (!plain.empty() && (SSL_write_ex(impl_->ssl, plain.data(), plain.size(), &n_taken) != 1 ||
                         n_taken != plain.size())) {
    impl_->fail(last_problem());
    return "";
  }
  return take_output();
}

std::string TlsChannel::take_output() {
  std::string bytes(BIO_ctrl_pending(impl_->to_network), '\0');
  size_t n_bytes = 0;
  if (!bytes.empty()) {
    TRIREME_CHECK(BIO_read_ex(impl_->to_network, bytes.data(), bytes.size(), &n_bytes) == 1 &&
                  n_bytes == bytes.size());
  }
  return bytes;
}

bool TlsChannel::has_output() const { return BIO_ctrl_pending(impl_->to_network) > 0; }

std::string TlsChannel::close() {
  if (!established()) return "";
  ERR_clear_error();
  SSL_shutdown(impl_->ssl);
  ERR_clear_error();
  return take_output();
}

const std::string& TlsChannel::problem() const { return impl_->problem; }

}  // namespace trireme
