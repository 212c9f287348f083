#include "worker/deadletter.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/changes.h"

#define LOG_PER_SECOND \
    20 /* a flood of bad events must not become a flood of lines; all are counted and stored */

#define SHOWN 80 /* bytes of an attribute in a detail */

static void member(struct buffer *b, const char *name, const char *value)
{
    if (!value)
        return;
    buffer_printf(b, ",\"%s\":", name);
    if (utf8_valid(value, strlen(value)))
        buffer_append_json(b, value, strlen(value));
    else
        buffer_append_text(b, "\"(not UTF-8)\"");
}

static void log_letter(const struct dead_letter *letter)
{
    static _Atomic uint64_t second;
    static _Atomic unsigned count;
    uint64_t now = clock_now_ns() / CLOCK_S;
    if (atomic_exchange(&second, now) != now)
        atomic_store(&count, 0);
    unsigned n = atomic_fetch_add(&count, 1);
    if (n < LOG_PER_SECOND)
        log_warn("dead_letter", LOG_STR("reason", letter->reason), LOG_STR("detail", letter->detail),
                 LOG_STR("source", letter->source), LOG_STR("position", letter->position),
                 LOG_STR("trigger", letter->trigger));
    else if (n == LOG_PER_SECOND)
        log_warn("dead_letters_not_logged", LOG_STR("detail", "more than 20 in this second; all are stored"));
}

/* Bytes of the text to show, whole characters. */
static int shown(struct cloudevent_span text)
{
    size_t len = text.len < SHOWN ? text.len : SHOWN;
    while (len && len < text.len && ((unsigned char)text.text[len] & 0xc0) == 0x80)
        len--;
    return (int)len;
}

void dead_letter_unmatched(const struct cloudevent *event, char ret_detail[DEAD_LETTER_DETAIL])
{
    struct cloudevent_span type = event->attribute[CE_TYPE];
    struct cloudevent_span subject = event->attribute[CE_SUBJECT];
    snprintf(ret_detail, DEAD_LETTER_DETAIL, "no trigger has the type %.*s and the subject %.*s", shown(type),
             type.text ? type.text : "", subject.len ? shown(subject) : 2,
             subject.len ? subject.text : "\"\"");
}

void dead_letter_no_target(const struct cloudevent *carrier, char ret_detail[DEAD_LETTER_DETAIL])
{
    struct cloudevent_span id = carrier->attribute[CE_SUBJECT];
    snprintf(ret_detail, DEAD_LETTER_DETAIL, "there is no trigger %.*s whose context could be written to",
             shown(id), id.text ? id.text : "");
}

void dead_letter_add(const struct dead_letter *letter, struct changes *out)
{
    char time[CLOCK_ISO_MAX];
    struct buffer *b = changes_begin(out, STORAGE_DEAD_LETTERS, STORAGE_PUT, "", 0, "", 0);
    buffer_printf(b, "{\"reason\":\"%s\"", letter->reason);
    member(b, "detail", letter->detail);
    member(b, "time", clock_iso(clock_unix_ns(), time));
    member(b, "source", letter->source);
    member(b, "position", letter->position);
    member(b, "trigger", letter->trigger);
    member(b, "key", letter->key);
    if (letter->event) {
        buffer_append_text(b, ",\"event\":");
        cloudevent_write(letter->event, b);
    }
    if (letter->body) {
        buffer_append_char(b, ',');
        buffer_append(b, letter->body, letter->body_len);
    }
    buffer_append_char(b, '}');
    changes_end(out);
    log_letter(letter);
}
