/* Who may: the token, or what the server's owner decides. See http.h. */
#include "supervisor/http_internal.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CREDENTIALS_MAX 1024 /* bytes of a user and a password, as base64 */

void http_server_set_token(struct http_server *server, const char *token)
{
    BUFFER_AUTO plain = BUFFER_INIT;
    unsigned char digest[SHA256_DIGEST_LENGTH] = {0};
    buffer_append_text(&plain, "token:");
    buffer_append_text(&plain, token);
    char *base64 = plain.failed ? NULL : malloc(4 * ((plain.len + 2) / 3) + 1);
    if (base64) {
        int n = EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain.data, (int)plain.len);
        SHA256((const unsigned char *)base64, (size_t)n, digest);
        OPENSSL_cleanse(base64, (size_t)n);
        free(base64);
    }
    /* Without memory the digest stays one that no credentials have: all are refused. */
    pthread_rwlock_wrlock(&server->lock);
    server->token_set = token[0] != '\0';
    memcpy(server->digest, digest, sizeof digest);
    pthread_rwlock_unlock(&server->lock);
}

/* The base64 text of Basic authentication, NULL without. */
static const char *basic_credentials(const struct http_request *request)
{
    const char *header = http_header(request, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!header || strncasecmp(header, "Basic ", 6) != 0)
        return NULL;
    header += 6;
    while (*header == ' ')
        header++;
    return header;
}

/* Compares digests, so that neither the token's length nor a common beginning shows in the time it takes. */
static bool brings_token(struct http_request *request)
{
    struct http_server *server = request->server;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    const char *given = basic_credentials(request);
    const char *credentials = given ? given : "";
    SHA256((const unsigned char *)credentials, strlen(credentials), digest);
    pthread_rwlock_rdlock(&server->lock);
    bool fine = !server->token_set || (given && CRYPTO_memcmp(digest, server->digest, sizeof digest) == 0);
    pthread_rwlock_unlock(&server->lock);
    return fine;
}

/* Whether the peer is on this machine. */
static bool is_loopback(const struct http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !info->client_addr)
        return false;
    const struct sockaddr *address = info->client_addr;
    if (address->sa_family == AF_UNIX)
        return true;
    if (address->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return ntohl(in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    if (address->sa_family != AF_INET6)
        return false;
    struct sockaddr_in6 in6;
    memcpy(&in6, address, sizeof in6);
    return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) && in6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

/* Decodes user and password, each NUL-terminated in `to`. false: there are none that can be right. */
static bool decode_credentials(const char *base64, char to[CREDENTIALS_MAX], const char **ret_password)
{
    size_t len = strlen(base64);
    while (len > 0 && base64[len - 1] == ' ')
        len--;
    if (len == 0 || len % 4 != 0 || len >= CREDENTIALS_MAX)
        return false;
    int n = EVP_DecodeBlock((unsigned char *)to, (const unsigned char *)base64, (int)len);
    if (n <= 0)
        return false;
    for (size_t padding = 0; padding < 2 && base64[len - 1 - padding] == '='; padding++)
        n--;
    to[n] = '\0';
    char *colon = strchr(to, ':');
    if (!colon || strlen(to) != (size_t)n)
        return false;
    *colon = '\0';
    *ret_password = colon + 1;
    return true;
}

unsigned http_refuse(struct http_request *request, const char **ret_error)
{
    const struct http_options *options = &request->server->options;
    *ret_error = "Unauthorized";
    if (!options->authorise)
        return !options->authenticate || brings_token(request) ? 0 : MHD_HTTP_UNAUTHORIZED;
    char plain[CREDENTIALS_MAX];
    const char *password = NULL;
    const char *base64 = basic_credentials(request);
    bool given = base64 && decode_credentials(base64, plain, &password);
    unsigned status = options->authorise(options->context, given ? plain : NULL, given ? password : NULL,
                                         is_loopback(request), ret_error);
    OPENSSL_cleanse(plain, sizeof plain);
    return status;
}
