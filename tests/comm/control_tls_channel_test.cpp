#include "comm/control/tls_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "kernels/result.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using testing::Not;

// A self-signed certificate and its key as PEM files, in a folder of their own.
class PemFiles {
 public:
  PemFiles() {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    EXPECT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
    std::FILE* file = std::fopen(this->certificate().c_str(), "w");
    EXPECT_EQ(PEM_write_X509(file, certificate), 1);
    std::fclose(file);
    file = std::fopen(this->key().c_str(), "w");
    EXPECT_EQ(PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
    std::fclose(file);
    file = std::fopen(locked_key().c_str(), "w");
    char password[] = "pass";
    EXPECT_EQ(PEM_write_PrivateKey(file, key, EVP_aes_128_cbc(), nullptr, 0, nullptr, password), 1);
    std::fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  std::string certificate() const { return folder_ / "cert.pem"; }
  std::string key() const { return folder_ / "key.pem"; }
  std::string locked_key() const { return folder_ / "locked.pem"; }

 private:
  const TempFolder folder_;
};

// Carries what both say until neither has more; everything that crossed.
std::string converse(TlsChannel& client, TlsChannel& server) {
  std::string crossed;
  for (;;) {
    client.shake_hands();
    const std::string there = client.take_output();
    server.receive(there);
    server.shake_hands();
    const std::string back = server.take_output();
    client.receive(back);
    crossed += there + back;
    if (there.empty() && back.empty()) return crossed;
  }
}

// Everything `from` has for its reader.
std::string read_all(TlsChannel& from) {
  std::string text;
  std::string room(1000, '\0');
  for (size_t n = 0; from.read(room, n) == TlsChannel::Read::kBytes;) text.append(room, 0, n);
  return text;
}

TEST(ControlTlsChannel, EndsThatShareASecretTalk) {
  TlsChannel client(TlsContext::client_by_secret("open sesame"));
  TlsChannel server(TlsContext::server_by_secret("open sesame"));
  std::string crossed = converse(client, server);
  ASSERT_TRUE(client.established()) << client.problem();
  ASSERT_TRUE(server.established()) << server.problem();
  const std::string large(100000, 'x');
  for (const std::string& text : {std::string("hello from rank 1"), large, std::string("end")}) {
    const std::string bytes = client.encrypt(text);
    // In pieces, as a network brings them.
    for (size_t i = 0; i < bytes.size(); i += 999) {
      server.receive(std::string_view(bytes).substr(i, 999));
    }
    EXPECT_EQ(read_all(server), text);
    client.receive(server.encrypt(text));
    EXPECT_EQ(read_all(client), text);
    crossed += bytes;
  }
  EXPECT_THAT(crossed, Not(HasSubstr("hello from rank")));
  EXPECT_THAT(crossed, Not(HasSubstr("open sesame")));
}

TEST(ControlTlsChannel, AnotherSecretFails) {
  TlsChannel client(TlsContext::client_by_secret("one"));
  TlsChannel server(TlsContext::server_by_secret("two"));
  converse(client, server);
  EXPECT_FALSE(client.established());
  EXPECT_FALSE(server.established());
  EXPECT_NE(server.problem(), "");
  EXPECT_NE(client.problem(), "");
  EXPECT_EQ(client.encrypt("secret plans"), "");
}

TEST(ControlTlsChannel, ACertificateIsNoProofOfTheSecret) {
  const PemFiles files;
  TlsChannel client(TlsContext::client_by_secret("one"));
  TlsChannel server(TlsContext::server_by_certificate(files.certificate(), files.key()));
  converse(client, server);
  EXPECT_FALSE(client.established());
  EXPECT_EQ(client.encrypt("secret plans"), "");
}

TEST(ControlTlsChannel, WhatIsNoTlsFails) {
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(20000, '\0'), std::string(70000, 'x')}) {
    TlsChannel server(TlsContext::server_by_secret("s"));
    server.receive(garbage);
    EXPECT_FALSE(server.shake_hands());
    EXPECT_FALSE(server.established());
  }
}

TEST(ControlTlsChannel, ChangedBytesBreakIt) {
  TlsChannel client(TlsContext::client_by_secret("s"));
  TlsChannel server(TlsContext::server_by_secret("s"));
  converse(client, server);
  std::string bytes = client.encrypt("plan 7");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  server.receive(bytes);
  char room[100];
  size_t n = 0;
  EXPECT_EQ(server.read(room, n), TlsChannel::Read::kFailed);
  EXPECT_FALSE(server.established());
}

TEST(ControlTlsChannel, CloseIsHeard) {
  TlsChannel client(TlsContext::client_by_secret("s"));
  TlsChannel server(TlsContext::server_by_secret("s"));
  converse(client, server);
  client.receive(server.close());
  char room[100];
  size_t n = 0;
  EXPECT_EQ(client.read(room, n), TlsChannel::Read::kEnd);
}

std::string problem_of(const std::string& certificate, const std::string& key) {
  try {
    TlsContext::server_by_certificate(certificate, key);
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "";
}

TEST(ControlTlsChannel, BadFilesAreNamed) {
  const PemFiles files;
  const PemFiles others;
  EXPECT_EQ(problem_of(files.certificate(), files.key()), "");
  EXPECT_THAT(problem_of("/no/such.pem", files.key()), HasSubstr("/no/such.pem"));
  EXPECT_THAT(problem_of(files.certificate(), "/no/such.pem"), HasSubstr("/no/such.pem"));
  EXPECT_THAT(problem_of(files.key(), files.key()), HasSubstr("--tls-cert"));
  EXPECT_THAT(problem_of(files.certificate(), files.certificate()), HasSubstr("--tls-key"));
  EXPECT_THAT(problem_of(files.certificate(), others.key()), HasSubstr("mismatch"));
  // Without asking anybody for the password.
  EXPECT_THAT(problem_of(files.certificate(), files.locked_key()), HasSubstr("password"));
}

}  // namespace
}  // namespace trireme
