#include "worker/document/redact.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/json.h"

/* Parts of names, in lower case and without separators. */
static const char *const parts[] = {"password", "passwd",      "secret",     "token",
                                    "apikey",   "accesskeyid", "privatekey", "authorization",
                                    "cookie",   "credential",  "signature"};
/* Whole names. */
static const char *const names[] = {"auth", "pass", "pwd", "sig", "xfunctionskey"};
/* Whole names that only look like it. */
static const char *const harmless[] = {"idempotencykey", "triggerflowkey", "secretdirectory", "tokens",
                                       "maxtokens"};

static bool listed(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], name))
            return true;
    return false;
}

#define LISTED(list, name) listed((list), sizeof(list) / sizeof *(list), (name))

#define LONGEST_PART 13

static bool has_secret_part(const char *plain)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(plain, parts[i]))
            return true;
    return false;
}

bool redact_is_secret(const char *name, size_t len)
{
    char plain[64];
    size_t n = 0;
    bool whole = true;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)name[i]))
            continue;
        if (n == sizeof plain - 1) {
            plain[n] = '\0';
            if (has_secret_part(plain))
                return true;
            memmove(plain, plain + n - LONGEST_PART, LONGEST_PART);
            n = LONGEST_PART;
            whole = false;
        }
        plain[n++] = (char)tolower((unsigned char)name[i]);
    }
    plain[n] = '\0';
    if (!whole)
        return has_secret_part(plain);
    return !LISTED(harmless, plain) && (has_secret_part(plain) || LISTED(names, plain));
}

bool redact_names_secret(const struct json_value *name)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (!name->escaped)
        return redact_is_secret(name->text, name->len);
    json_unescape(name, &text);
    return text.failed || redact_is_secret(buffer_text(&text), text.len);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
}

/* Of a query, where a bare key is one to a service; percent-encoded. */
static bool is_secret_parameter(const char *name, size_t len)
{
    BUFFER_AUTO text = BUFFER_INIT;
    for (size_t i = 0; i < len; i++) {
        bool coded =
            name[i] == '%' && len - i > 2 && hex_digit(name[i + 1]) >= 0 && hex_digit(name[i + 2]) >= 0;
        buffer_append_char(&text,
                           coded ? (char)(hex_digit(name[i + 1]) * 16 + hex_digit(name[i + 2])) : name[i]);
        i += coded ? 2 : 0;
    }
    return text.failed || redact_is_secret(buffer_text(&text), text.len) ||
           !strcasecmp(buffer_text(&text), "key") || !strcasecmp(buffer_text(&text), "code");
}

/* {"file"|"env"|"global": text} and nothing else. */
static bool is_reference(const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, member, more;
    if (value->type != JSON_OBJECT)
        return false;
    json_iter_init(&iter, value);
    if (!json_next(&iter, &name, &member) || member.type != JSON_STRING || json_next(&iter, &more, &more))
        return false;
    return json_equals(&name, "file", 4) || json_equals(&name, "env", 3) || json_equals(&name, "global", 6);
}

static size_t find(const char *text, size_t len, const char *of)
{
    size_t i = 0;
    while (i < len && !memchr(of, text[i], strlen(of)))
        i++;
    return i;
}

static void append_parameters(const char *query, size_t len, struct buffer *out)
{
    for (size_t at = 0; at < len;) {
        size_t n = find(query + at, len - at, "&;");
        const char *equals = memchr(query + at, '=', n);
        if (equals && is_secret_parameter(query + at, (size_t)(equals - query) - at)) {
            buffer_append(out, query + at, (size_t)(equals - query) + 1 - at);
            buffer_append_text(out, REDACTED);
        } else {
            n = find(query + at, n, "#?"); /* more may follow in the fragment */
            buffer_append(out, query + at, n);
        }
        at += n;
        if (at < len)
            buffer_append_char(out, query[at++]);
    }
}

void redact_url(const char *url, size_t len, struct buffer *out)
{
    const char *slashes = memmem(url, len, "://", 3);
    size_t start = slashes ? (size_t)(slashes - url) + 3 : 0;
    size_t path = start + find(url + start, len - start, "/?#");
    const char *at = slashes ? memrchr(url + start, '@', path - start) : NULL;
    buffer_append(out, url, start);
    if (at) {
        buffer_append_text(out, REDACTED);
        start = (size_t)(at - url);
    }
    size_t query = path + find(url + path, len - path, "?#");
    buffer_append(out, url + start, query - start);
    if (query < len) {
        buffer_append_char(out, url[query]);
        append_parameters(url + query + 1, len - query - 1, out);
    }
}

static bool looks_like_url(const char *text, size_t len)
{
    const char *slashes = memmem(text, len < 16 ? len : 16, "://", 3);
    return slashes && slashes > text;
}

static void append_string(const struct json_value *value, struct buffer *out)
{
    struct buffer text = BUFFER_INIT;
    struct buffer shown = BUFFER_INIT;
    json_unescape(value, &text);
    if (looks_like_url(buffer_text(&text), text.len)) {
        redact_url(text.data, text.len, &shown);
        buffer_append_json(out, buffer_text(&shown), shown.len);
    } else {
        buffer_append_json(out, buffer_text(&text), text.len);
    }
    out->failed |= text.failed | shown.failed;
    buffer_done(&text);
    buffer_done(&shown);
}

static void append_raw(const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static void append_value(const struct json_value *value, const char *but, bool secret, struct buffer *out);

static void append_member(const struct json_value *name, const struct json_value *value, const char *but,
                          bool secret, struct buffer *out)
{
    append_raw(name, out);
    buffer_append_char(out, ':');
    if (but && json_equals(name, but, strlen(but))) {
        append_raw(value, out);
        return;
    }
    append_value(value, but, secret || redact_names_secret(name), out);
}

/* secret: it belongs to one. */
static void append_value(const struct json_value *value, const char *but, bool secret, struct buffer *out)
{
    struct json_iter iter;
    struct json_value name, member;
    bool object = value->type == JSON_OBJECT;
    bool first = true;
    if (!object && value->type != JSON_ARRAY) {
        if (secret && (value->type == JSON_STRING || value->type == JSON_NUMBER))
            buffer_append_text(out, "\"" REDACTED "\"");
        else if (value->type == JSON_STRING)
            append_string(value, out);
        else
            append_raw(value, out);
        return;
    }
    if (is_reference(value)) {
        append_raw(value, out);
        return;
    }
    buffer_append_char(out, object ? '{' : '[');
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &member)) {
        if (!first)
            buffer_append_char(out, ',');
        first = false;
        if (object)
            append_member(&name, &member, but, secret, out);
        else
            append_value(&member, but, secret, out);
    }
    buffer_append_char(out, object ? '}' : ']');
}

void redact_json(const struct json_value *value, const char *but, struct buffer *out)
{
    append_value(value, but, false, out);
}

void redact_member(const struct json_value *name, const struct json_value *value, struct buffer *out)
{
    append_value(value, NULL, redact_names_secret(name), out);
}
