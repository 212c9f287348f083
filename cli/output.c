/* See output.h. */
#include "cli/output.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/json.h"
#include "cli/json_c.h"
#include "cli/cli.h"
#include "cli/client.h"

#define HIDDEN "********"

/* Bytes of the UTF-8 character at text; 0: none. */
static size_t utf8_length(const char *text)
{
    unsigned char c = (unsigned char)*text;
    size_t n = c < 0x80 ? 1 : c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 0;
    return n && strnlen(text, n) == n && utf8_valid(text, n) ? n : 0;
}

void output_append_safe(struct buffer *out, const char *text)
{
    while (*text != '\0') {
        unsigned char c = (unsigned char)*text;
        size_t n = utf8_length(text);
        /* C1 controls (U+0080 to U+009F) are two bytes. */
        bool control = c < 0x20 || c == 0x7F || (c == 0xC2 && n == 2 && (unsigned char)text[1] < 0xA0);
        if (n == 0 || control)
            buffer_append_char(out, '?');
        else
            buffer_append(out, text, n);
        text += n ? n : 1;
    }
}

static bool is_secret(const char *name)
{
    static const char *const names[] = {"password",          "passwd", "secret",  "secret_access_key",
                                        "session_token",     "token",  "api_key", "apikey",
                                        "aws_session_token", "digest", NULL};
    for (size_t i = 0; names[i]; i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return strcasecmp(name, "aws_secret_access_key") == 0;
}

/* scheme://user:PASSWORD@host without its password; NULL: there is none. */
static struct json_object *hide_url(const char *text)
{
    const char *host = strstr(text, "://");
    if (!host)
        return NULL;
    host += 3;
    const char *at = memrchr(host, '@', strcspn(host, "/?#"));
    const char *colon = at ? memchr(host, ':', (size_t)(at - host)) : NULL;
    if (!colon)
        return NULL;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append(&out, text, (size_t)(colon + 1 - text));
    buffer_append_text(&out, HIDDEN);
    buffer_append_text(&out, at);
    return json_object_new_string(buffer_text(&out));
}

/* What stands for a member's value; NULL: it stays. */
static struct json_object *hidden(const char *name, struct json_object *value)
{
    enum json_c_type type = json_object_get_type(value);
    if (is_secret(name) && (type == json_type_string || type == json_type_int || type == json_type_double))
        return json_object_new_string(HIDDEN);
    return type == json_type_string ? hide_url(json_object_get_string(value)) : NULL;
}

void output_redact(struct json_object *value)
{
    for (size_t i = 0; i < output_length(value); i++) {
        struct json_object *item = json_object_array_get_idx(value, i);
        struct json_object *instead = hidden("", item);
        if (instead)
            json_object_array_put_idx(value, i, instead);
        else
            output_redact(item);
    }
    if (!json_object_is_type(value, json_type_object))
        return;
    json_object_object_foreach(value, name, member)
    {
        struct json_object *instead = hidden(name, member);
        if (instead)
            json_object_object_add(value, name, instead);
        else
            output_redact(member);
    }
}

int output_document(const struct cli *cli, struct json_object *value)
{
    int flags = JSON_C_TO_STRING_NOSLASHESCAPE |
                (cli->json ? JSON_C_TO_STRING_PLAIN : JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
    const char *text = json_object_to_json_string_ext(value, flags);
    if (!text)
        return cli_fail_memory();
    puts(text);
    return CLI_OK;
}

struct json_object *output_member(struct json_object *value, const char *name)
{
    struct json_object *member = NULL;
    return json_object_object_get_ex(value, name, &member) ? member : NULL;
}

const char *output_text(struct json_object *value, const char *name)
{
    struct json_object *member = output_member(value, name);
    const char *text = member ? json_object_get_string(member) : NULL;
    return text ? text : "";
}

size_t output_length(struct json_object *value)
{
    return json_object_is_type(value, json_type_array) ? json_object_array_length(value) : 0;
}

const char *output_count(uint64_t n, char to[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    size_t out = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            to[out++] = ',';
        to[out++] = digits[i];
    }
    to[out] = '\0';
    return to;
}

const char *output_short(double value, char to[16])
{
    static const char units[] = {'\0', 'k', 'M', 'G', 'T'};
    size_t unit = 0;
    while (value >= 10000 && unit + 1 < sizeof units) {
        value /= 1000;
        unit++;
    }
    snprintf(to, 16, unit == 0 ? "%.0f%.0s" : "%.1f%.1s", value, &units[unit]);
    return to;
}

void output_line(const char *text)
{
    BUFFER_AUTO line = BUFFER_INIT;
    output_append_safe(&line, text);
    puts(buffer_text(&line));
}

int output_message(const struct cli *cli, struct json_object *answer)
{
    if (cli->json)
        return output_document(cli, answer);
    const char *message = output_text(answer, "message");
    output_line(*message ? message : "done");
    return CLI_OK;
}

int output_call(struct cli *cli, const char *method, struct buffer *path, struct json_object *body)
{
    struct json_object *answer;
    if (path->failed)
        return cli_fail_memory();
    int code = client_call(cli, method, buffer_text(path), body, &answer);
    if (code != CLI_OK)
        return code;
    code = output_message(cli, answer);
    json_object_put(answer);
    return code;
}
