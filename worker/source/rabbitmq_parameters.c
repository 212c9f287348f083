#include "worker/source/rabbitmq_parameters.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "worker/source/parameter.h"

#define SHORT_TEXT 255 /* bytes of an AMQP short string */
#define HEARTBEAT_MAX 65535
#define PREFETCH 1000
#define PREFETCH_MAX 65535

const char *const rabbitmq_parameters_known[] = {"amqp_url", "queue",      "tls_ca",   "tls_cert",
                                                 "tls_key",  "tls_verify", "prefetch", NULL};

/* --- the URL; nothing of it goes into a message --- */

static int bad_url(struct error *err, const char *what)
{
    return error_set(err, ERROR_INVALID, "parameter amqp_url: %s", what);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A part of the URL without its percent-encoding. */
static int decode(const char *text, size_t len, const char *what, char **ret_text, struct error *err)
{
    char *out = malloc(len + 1);
    size_t n = 0;
    if (!out)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            c = high < 0 || low < 0 ? 0 : high << 4 | low;
            i += 2;
        }
        if (!c) {
            free(out);
            return error_set(err, ERROR_INVALID,
                             "parameter amqp_url: its %s is not percent-encoded, or holds a NUL character",
                             what);
        }
        out[n++] = (char)c;
    }
    out[n] = '\0';
    *ret_text = out;
    return 0;
}

static int read_number(const char *text, size_t len, int max, int *ret_number)
{
    int number = 0;
    if (!len || len > 5)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = number * 10 + (text[i] - '0');
    }
    *ret_number = number;
    return number > max ? -1 : 0;
}

/* user[:password]@ */
static int read_user(const char *text, size_t len, struct rabbitmq_parameters *p, struct error *err)
{
    const char *colon = memchr(text, ':', len);
    size_t user = colon ? (size_t)(colon - text) : len;
    if (decode(text, user, "user", &p->user, err) < 0)
        return -1;
    return colon ? decode(colon + 1, len - user - 1, "password", &p->password, err) : 0;
}

/* host[:port]; an IPv6 address is in brackets. */
static int read_host(const char *text, size_t len, struct rabbitmq_parameters *p, struct error *err)
{
    const char *end = text + len;
    const char *port = NULL;
    size_t host = len;
    if (len && *text == '[') {
        const char *bracket = memchr(text, ']', len);
        if (!bracket || (bracket + 1 < end && bracket[1] != ':'))
            return bad_url(err, "its host has a [ without ]");
        port = bracket + 1 < end ? bracket + 2 : NULL;
        text++;
        host = (size_t)(bracket - text);
    } else if ((port = memchr(text, ':', len))) {
        host = (size_t)(port - text);
        port++;
    }
    if (port && port < end && (read_number(port, (size_t)(end - port), 65535, &p->port) < 0 || !p->port))
        return bad_url(err, "its port is not a number from 1 to 65535");
    return host ? decode(text, host, "host", &p->host, err) : 0;
}

static int read_query(const char *text, struct rabbitmq_parameters *p, struct error *err)
{
    static const char *const ignored[] = {"blocked_connection_timeout",
                                          "channel_max",
                                          "client_properties",
                                          "connection_attempts",
                                          "frame_max",
                                          "locale",
                                          "retry_delay",
                                          "socket_timeout",
                                          "stack_timeout",
                                          NULL};
    while (*text) {
        size_t len = strcspn(text, "&");
        size_t name = strcspn(text, "=&");
        bool known = false;
        if (name == 9 && !memcmp(text, "heartbeat", 9)) {
            if (name == len || read_number(text + 10, len - 10, HEARTBEAT_MAX, &p->heartbeat) < 0)
                return bad_url(err, "its heartbeat is not a number of seconds from 0 to 65535");
            known = true;
        }
        for (unsigned i = 0; ignored[i]; i++)
            known |= strlen(ignored[i]) == name && !memcmp(text, ignored[i], name);
        if (!known && len)
            return bad_url(err, "its query has an unknown parameter; known: heartbeat");
        text += len + (text[len] == '&');
    }
    return 0;
}

static int read_url(const char *url, struct rabbitmq_parameters *p, struct error *err)
{
    p->tls = !strncmp(url, "amqps://", 8);
    if (!p->tls && strncmp(url, "amqp://", 7) != 0)
        return bad_url(err, "its scheme is neither amqp nor amqps");
    url += p->tls ? 8 : 7;
    p->port = p->tls ? 5671 : 5672;
    p->heartbeat = -1;
    if (strchr(url, '#'))
        return bad_url(err, "has a # that is not percent-encoded");
    size_t authority = strcspn(url, "/?");
    const char *at = memrchr(url, '@', authority);
    const char *host = at ? at + 1 : url;
    const char *path = url + authority;
    size_t path_len = strcspn(path, "?");
    if (at && read_user(url, (size_t)(at - url), p, err) < 0)
        return -1;
    if (read_host(host, (size_t)(path - host), p, err) < 0)
        return -1;
    if (path_len > 1 && memchr(path + 1, '/', path_len - 1))
        return bad_url(err, "its virtual host holds a / that is not percent-encoded (%2F)");
    if (path_len > 1 && decode(path + 1, path_len - 1, "virtual host", &p->vhost, err) < 0)
        return -1;
    return path[path_len] ? read_query(path + path_len + 1, p, err) : 0;
}

static int set_default(char **text, const char *value, struct error *err)
{
    if (!*text)
        *text = strdup(value);
    return *text ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

/* --- all of them --- */

static int check(const struct rabbitmq_parameters *p, struct error *err)
{
    if (!p->queue[0] || strlen(p->queue) > SHORT_TEXT)
        return error_set(err, ERROR_INVALID, "parameter queue is not a text of 1 to %d bytes", SHORT_TEXT);
    if (strlen(p->vhost) > SHORT_TEXT)
        return bad_url(err, "its virtual host is longer than 255 bytes");
    if (!p->tls_cert[0] != !p->tls_key[0])
        return error_set(err, ERROR_INVALID, "parameter %s is missing, which belongs to %s",
                         p->tls_cert[0] ? "tls_key" : "tls_cert", p->tls_cert[0] ? "tls_cert" : "tls_key");
    if (!p->tls && (p->tls_ca[0] || p->tls_cert[0]))
        return error_set(err, ERROR_INVALID, "parameter %s needs an amqp_url that begins with amqps://",
                         p->tls_ca[0] ? "tls_ca" : "tls_cert");
    return 0;
}

int rabbitmq_parameters_read(const struct json_value *json, struct rabbitmq_parameters *ret_parameters,
                             struct error *err)
{
    struct rabbitmq_parameters p = {0};
    char *url = NULL;
    if (parameter_text(json, "amqp_url", NULL, &url, err) < 0 || read_url(url, &p, err) < 0 ||
        set_default(&p.user, "guest", err) < 0 || set_default(&p.password, "guest", err) < 0 ||
        set_default(&p.host, "localhost", err) < 0 || set_default(&p.vhost, "/", err) < 0 ||
        parameter_text(json, "queue", NULL, &p.queue, err) < 0 ||
        parameter_text(json, "tls_ca", "", &p.tls_ca, err) < 0 ||
        parameter_text(json, "tls_cert", "", &p.tls_cert, err) < 0 ||
        parameter_text(json, "tls_key", "", &p.tls_key, err) < 0 ||
        parameter_bool(json, "tls_verify", true, &p.tls_verify, err) < 0 ||
        parameter_number(json, "prefetch", PREFETCH, 1, PREFETCH_MAX, &p.prefetch, err) < 0 ||
        check(&p, err) < 0) {
        free(url);
        rabbitmq_parameters_done(&p);
        return -1;
    }
    free(url);
    *ret_parameters = p;
    return 0;
}

void rabbitmq_parameters_done(struct rabbitmq_parameters *p)
{
    free(p->user);
    free(p->password);
    free(p->host);
    free(p->vhost);
    free(p->queue);
    free(p->tls_ca);
    free(p->tls_cert);
    free(p->tls_key);
    *p = (struct rabbitmq_parameters){0};
}
