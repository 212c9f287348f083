#include "worker/executor/http_call_request.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"

#define RETRY_AFTER_LONGEST (INT64_C(365) * 24 * 3600)

void http_call_request_init(struct http_call_request *request)
{
    *request = (struct http_call_request){.method = "POST",
                                          .connect_timeout_ns = 10 * CLOCK_S,
                                          .timeout_ns = 60 * CLOCK_S,
                                          .answer_max = 64u << 10};
}

void http_call_request_done(struct http_call_request *request)
{
    buffer_done(&request->url);
    buffer_done(&request->unix_socket);
    buffer_done(&request->headers);
    buffer_done(&request->body);
}

static bool is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("!#$%&'*+-.^_`|~", text[i]))
            return false;
    return len > 0;
}

int http_call_method(struct http_call_request *request, const char *method, size_t len, struct error *err)
{
    bool good = len < sizeof request->method && is_token(method, len);
    for (size_t i = 0; i < len; i++)
        good &= method[i] && !islower((unsigned char)method[i]); /* they are told apart: "post" is none */
    if (!good)
        return error_set(err, ERROR_INVALID, "method is \"%.*s\", not a method of HTTP in capitals",
                         (int)(len < 40 ? len : 40), method);
    memcpy(request->method, method, len);
    request->method[len] = '\0';
    return 0;
}

int http_call_header(struct http_call_request *request, const char *name, const char *value,
                     struct error *err)
{
    static const char *const own[] = {"Connection", "Content-Length",   "Expect",
                                      "Keep-Alive", "Proxy-Connection", "TE",
                                      "Trailer",    "Upgrade",          "Transfer-Encoding"};
    size_t len = strlen(name);
    if (!is_token(name, len))
        return error_set(err, ERROR_INVALID, "%.*s is no name of a header", (int)(len < 80 ? len : 80), name);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcasecmp(name, own[i]))
            return error_set(err, ERROR_INVALID, "header %s belongs to the connection", own[i]);
    for (const char *c = value; *c; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
            return error_set(err, ERROR_INVALID, "the value of header %.80s holds control characters", name);
    /* libcurl sends "name;" as a header without a value. */
    buffer_append_text(&request->headers, name);
    buffer_append_text(&request->headers, *value ? ": " : ";");
    buffer_append_text(&request->headers, value);
    buffer_append_char(&request->headers, '\0');
    return request->headers.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

const char *http_call_next_header(const struct http_call_request *request, const char *header)
{
    const char *next = header ? header + strlen(header) + 1 : request->headers.data;
    return next && next < request->headers.data + request->headers.len ? next : NULL;
}

bool http_call_has_header(const struct http_call_request *request, const char *name)
{
    size_t len = strlen(name);
    for (const char *h = NULL; (h = http_call_next_header(request, h));)
        if (!strncasecmp(h, name, len) && (h[len] == ':' || h[len] == ';'))
            return true;
    return false;
}

int http_call_bad_url(const char *url, const char *why, struct error *err)
{
    if (strpbrk(url, "@?#")) /* there may be a secret */
        return error_set(err, ERROR_INVALID, "the URL (%zu bytes) %s", strlen(url), why);
    return error_set(err, ERROR_INVALID, "URL \"%.200s\" %s", url, why);
}

int http_call_origin(const char *url, struct buffer *out, struct error *err)
{
    char *scheme = NULL;
    char *host = NULL;
    char *port = NULL;
    CURLU *u = curl_url();
    if (!u)
        return error_set(err, ERROR_MEMORY, "out of memory");
    bool read = !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
                !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
                !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    int r = 0;
    if (!read || (strcmp(scheme, "http") && strcmp(scheme, "https")))
        r = http_call_bad_url(url, "is not one of http or https", err);
    size_t start = out->len;
    if (r == 0)
        buffer_printf(out, "%s://%s:%s", scheme, host, port);
    for (size_t i = start; i < out->len; i++)
        out->data[i] = (char)tolower((unsigned char)out->data[i]);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return r;
}

static void append_part(CURLU *u, CURLUPart part, struct buffer *out)
{
    char *text = NULL;
    if (!curl_url_get(u, part, &text, 0))
        buffer_append_text(out, text);
    curl_free(text);
}

int http_call_url_parts(const char *url, struct buffer *host, struct buffer *path, struct buffer *query,
                        struct error *err)
{
    CURLU *u = curl_url();
    if (!u)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (curl_url_set(u, CURLUPART_URL, url, 0)) {
        curl_url_cleanup(u);
        return http_call_bad_url(url, "is none", err);
    }
    append_part(u, CURLUPART_HOST, host);
    char *scheme = NULL;
    char *port = NULL;
    if (!curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && !curl_url_get(u, CURLUPART_PORT, &port, 0) &&
        strcmp(port, strcmp(scheme, "https") ? "80" : "443"))
        buffer_printf(host, ":%s", port);
    curl_free(scheme);
    curl_free(port);
    append_part(u, CURLUPART_PATH, path);
    append_part(u, CURLUPART_QUERY, query);
    curl_url_cleanup(u);
    return host->failed || path->failed || query->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static bool is_public_ipv4(uint32_t a)
{
    static const struct {
        uint32_t network;
        unsigned bits;
    } others[] = {{0x00000000, 8},  {0x0A000000, 8},  {0x64400000, 10}, {0x7F000000, 8},  {0xA9FE0000, 16},
                  {0xAC100000, 12}, {0xC0000000, 24}, {0xC0A80000, 16}, {0xC6120000, 15}, {0xE0000000, 3}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if ((a ^ others[i].network) >> (32 - others[i].bits) == 0)
            return false;
    return true;
}

bool http_call_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return is_public_ipv4(ntohl(in.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6)
        return false;
    struct sockaddr_in6 in6;
    memcpy(&in6, address, sizeof in6);
    const uint8_t *b = in6.sin6_addr.s6_addr;
    uint32_t last = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) || (b[0] == 0 && b[1] == 0x64 && b[2] == 0xFF && b[3] == 0x9B))
        return is_public_ipv4(last);
    if (b[0] == 0x20 && b[1] == 0x02) /* 6to4 */
        return is_public_ipv4((uint32_t)b[2] << 24 | (uint32_t)b[3] << 16 | (uint32_t)b[4] << 8 | b[5]);
    return (b[0] & 0xE0) == 0x20; /* 2000::/3, what is given out */
}

uint64_t http_call_retry_after(const char *value, int64_t now_unix_s)
{
    char *end;
    while (*value == ' ')
        value++;
    int64_t seconds;
    if (isdigit((unsigned char)*value)) {
        seconds = strtoll(value, &end, 10); /* saturates */
        while (*end == ' ')
            end++;
        if (*end)
            return 0;
    } else {
        time_t at = curl_getdate(value, NULL);
        seconds = at == -1 ? 0 : (int64_t)at - now_unix_s;
    }
    if (seconds <= 0)
        return 0;
    return (uint64_t)(seconds < RETRY_AFTER_LONGEST ? seconds : RETRY_AFTER_LONGEST) * CLOCK_S;
}
