#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

#define LINE_MAX_BYTES 8192
#define VALUE_MAX_BYTES 4096 /* one long value leaves room for the others */
#define NUMBER_MAX_BYTES 32
#define TAIL_BYTES 32 /* kept free for `,"truncated":true}` and the newline */
#define URL_MAX_BYTES 1024

/* The sink. The level is read without the lock, the rest under it. */
static _Atomic int sink_level = LOG_LEVEL_INFO;
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static bool sink_json;
static char sink_process[32];
static char sink_workspace[256];

static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* A line being written. len never passes LINE_MAX_BYTES - TAIL_BYTES before finish(). */
struct line {
    size_t len;
    bool json;
    bool truncated;
    char data[LINE_MAX_BYTES];
};

void log_setup(enum log_level level, bool json, const char *process, const char *workspace)
{
    pthread_mutex_lock(&sink_lock);
    sink_json = json;
    snprintf(sink_process, sizeof sink_process, "%s", process ? process : "");
    snprintf(sink_workspace, sizeof sink_workspace, "%s", workspace ? workspace : "");
    pthread_mutex_unlock(&sink_lock);
    atomic_store_explicit(&sink_level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&sink_level, memory_order_relaxed);
}

static void put(struct line *line, const char *text, size_t n)
{
    memcpy(line->data + line->len, text, n);
    line->len += n;
}

static bool fits(const struct line *line, size_t n)
{
    return line->len + n <= LINE_MAX_BYTES - TAIL_BYTES;
}

/* Bytes of the UTF-8 sequence at p (Unicode 15, table 3-7), 0 when it is invalid. Reads no further than the
 * NUL. */
static size_t utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    size_t n = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    unsigned char low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

/* One character of text as it appears between quotes. Control characters (also U+0080-U+009F, which terminals
 * obey) and bytes that are not UTF-8 are escaped. Returns the bytes of text it covers. */
static size_t escape(const unsigned char *p, bool json, char out[8], size_t *ret_len)
{
    size_t n = utf8_length(p);
    int written;
    if (n == 0)
        written = snprintf(out, 8, json ? "\\\\x%02x" : "\\x%02x", p[0]);
    else if (p[0] == '"' || p[0] == '\\')
        written = snprintf(out, 8, "\\%c", p[0]);
    else if (p[0] == '\n' || p[0] == '\r' || p[0] == '\t')
        written = snprintf(out, 8, "\\%c", p[0] == '\n' ? 'n' : p[0] == '\r' ? 'r' : 't');
    else if (p[0] < 0x20 || p[0] == 0x7F)
        written = snprintf(out, 8, "\\u%04x", p[0]);
    else if (n == 2 && p[0] == 0xC2 && p[1] < 0xA0)
        written = snprintf(out, 8, "\\u%04x", p[1]);
    else {
        memcpy(out, p, n);
        written = (int)n;
    }
    *ret_len = (size_t)written;
    return n ? n : 1;
}

static bool needs_quotes(const unsigned char *p)
{
    if (!*p)
        return true;
    for (; *p; p++)
        if (*p <= ' ' || *p >= 0x7F || *p == '"' || *p == '=' || *p == '\\')
            return true;
    return false;
}

static void put_text(struct line *line, const char *text)
{
    const unsigned char *p = (const unsigned char *)(text ? text : "");
    bool quotes = line->json || needs_quotes(p);
    size_t start = line->len;
    if (quotes)
        put(line, "\"", 1);
    while (*p) {
        char out[8];
        size_t n;
        size_t used = escape(p, line->json, out, &n);
        if (!fits(line, n + 4) || line->len + n - start > VALUE_MAX_BYTES) {
            put(line, "...", 3);
            line->truncated = true;
            break;
        }
        put(line, out, n);
        p += used;
    }
    if (quotes)
        put(line, "\"", 1);
}

/* False when there is no room left for the key and a short value. */
static bool put_key(struct line *line, const char *key)
{
    size_t n = strlen(key);
    if (!fits(line, n + 4 + NUMBER_MAX_BYTES)) {
        line->truncated = true;
        return false;
    }
    if (line->len)
        put(line, line->json ? "," : " ", 1);
    else if (line->json)
        put(line, "{", 1);
    if (line->json)
        put(line, "\"", 1);
    put(line, key, n);
    put(line, line->json ? "\":" : "=", line->json ? 2 : 1);
    return true;
}

static void put_pair(struct line *line, const char *key, const char *text)
{
    if (put_key(line, key))
        put_text(line, text);
}

/* The URL without what may be secret: everything before the @ of its authority, the query and the fragment
 * (RFC 3986 section 3). An @ behind the authority may belong to a password with an unescaped slash: then only
 * the scheme is shown. */
static void hide_credentials(const char *url, char out[URL_MAX_BYTES])
{
    const char *scheme_end = strstr(url, "://");
    const char *authority = scheme_end ? scheme_end + 3 : url;
    int scheme_len = (int)(authority - url);
    const char *end = authority + strcspn(authority, "/?#");
    const char *at = memrchr(authority, '@', (size_t)(end - authority));
    if (strcspn(url, "/?#@") < (size_t)(scheme_len ? scheme_len - 2 : 0) || scheme_len > 32) {
        snprintf(out, URL_MAX_BYTES, "***"); /* what stands before :// is no scheme */
        return;
    }
    if (strchr(end, '@')) {
        snprintf(out, URL_MAX_BYTES, "%.*s***", scheme_len, url);
        return;
    }
    const char *shown = at ? at : authority;
    size_t shown_len = strcspn(shown, "?#");
    snprintf(out, URL_MAX_BYTES, "%.*s%s%.*s%s", scheme_len, url, at ? "***" : "",
             (int)(shown_len < URL_MAX_BYTES ? shown_len : URL_MAX_BYTES), shown,
             shown[shown_len] ? "?***" : "");
}

static void put_value(struct line *line, const struct log_field *field)
{
    char text[URL_MAX_BYTES];
    int n = 0;
    switch (field->kind) {
    case LOG_FIELD_STR:
        put_text(line, field->text);
        return;
    case LOG_FIELD_URL:
        hide_credentials(field->text ? field->text : "", text);
        put_text(line, text);
        return;
    case LOG_FIELD_INT:
        n = snprintf(text, NUMBER_MAX_BYTES, "%" PRId64, field->integer);
        break;
    case LOG_FIELD_UINT:
        n = snprintf(text, NUMBER_MAX_BYTES, "%" PRIu64, field->uinteger);
        break;
    case LOG_FIELD_DOUBLE:
        /* JSON has no infinities. */
        n = snprintf(text, NUMBER_MAX_BYTES, line->json && !isfinite(field->real) ? "null" : "%.9g",
                     field->real);
        break;
    case LOG_FIELD_BOOL:
        n = snprintf(text, NUMBER_MAX_BYTES, "%s", field->flag ? "true" : "false");
        break;
    }
    put(line, text, (size_t)n);
}

static bool has_field(const struct log_field *fields, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(fields[i].key, key))
            return true;
    return false;
}

static void finish(struct line *line)
{
    if (line->truncated) {
        const char *text = line->json ? ",\"truncated\":true" : " truncated=true";
        put(line, text, strlen(text));
    }
    if (line->json)
        put(line, "}", 1);
    put(line, "\n", 1);
    for (size_t done = 0; done < line->len;) {
        ssize_t n = write(STDERR_FILENO, line->data + done, line->len - done);
        if (n < 0 && errno != EINTR)
            return; /* nobody is left to be told */
        if (n > 0)
            done += (size_t)n;
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t n)
{
    if (!log_enabled(level))
        return;
    int saved = errno;
    char time[CLOCK_ISO_MAX];
    struct line line;
    line.len = 0;
    line.truncated = false;
    pthread_mutex_lock(&sink_lock);
    line.json = sink_json;
    put_pair(&line, "time", clock_iso(clock_unix_ns(), time));
    put_pair(&line, "level", level_names[level]);
    if (*sink_process)
        put_pair(&line, "process", sink_process);
    if (*sink_workspace && !has_field(fields, n, "workspace"))
        put_pair(&line, "workspace", sink_workspace);
    pthread_mutex_unlock(&sink_lock);
    put_pair(&line, "event", event);
    for (size_t i = 0; i < n; i++)
        if (put_key(&line, fields[i].key))
            put_value(&line, &fields[i]);
    finish(&line);
    errno = saved;
}
