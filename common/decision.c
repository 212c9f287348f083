#include "common/decision.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/json.h"

enum { TEXT_TRIGGER, TEXT_ID, TEXT_SOURCE, TEXT_TYPE, TEXT_SUBJECT, TEXTS };

#define ENTRY_BYTES 256
#define WORDS (ENTRY_BYTES / sizeof(uint64_t))
#define ENTRIES (ARENA_DECISIONS_BYTES / ENTRY_BYTES)
#define TEXT_BYTES (ENTRY_BYTES - 56)

/* An entry; in the arena it is read and written by whole words. */
struct entry {
    uint64_t lock; /* odd: being written; 0: never was */
    uint64_t sequence;
    uint64_t time_unix_ns;
    uint64_t trigger_hash; /* of the whole id */
    int64_t operands[2];
    uint8_t flags;
    uint8_t kind;
    uint8_t len[TEXTS];
    uint8_t pad;
    char text[TEXT_BYTES]; /* one behind the other */
};

static_assert(sizeof(struct entry) == ENTRY_BYTES, "entries fill the log");
static_assert(ENTRIES * ENTRY_BYTES == ARENA_DECISIONS_BYTES, "entries fill the log");

/* Bytes of each text that are kept; what a short one leaves is not given to the others. */
static const uint8_t kept[TEXTS] = {
    [TEXT_TRIGGER] = 44, [TEXT_ID] = 40, [TEXT_SOURCE] = 40, [TEXT_TYPE] = 44, [TEXT_SUBJECT] = 32};
static_assert(44 + 40 + 40 + 44 + 32 <= TEXT_BYTES && 44 < DECISION_TEXT_MAX, "texts fit");

/* --- writing --- */

static char *put_text(struct entry *e, unsigned which, const char *text, size_t len, char *at)
{
    size_t n = len < kept[which] ? len : kept[which];
    e->len[which] = (uint8_t)n;
    if (n)
        memcpy(at, text, n);
    return at + n;
}

static void fill(struct entry *e, const struct decision_facts *facts)
{
    static const enum cloudevent_attribute attributes[] = {
        [TEXT_ID] = CE_ID, [TEXT_SOURCE] = CE_SOURCE, [TEXT_TYPE] = CE_TYPE, [TEXT_SUBJECT] = CE_SUBJECT};
    e->sequence = facts->sequence;
    e->time_unix_ns = facts->time_unix_ns;
    e->trigger_hash = arena_name_hash(facts->trigger, facts->trigger_len);
    e->operands[0] = facts->operands[0];
    e->operands[1] = facts->operands[1];
    e->flags = (uint8_t)facts->flags;
    e->kind = (uint8_t)facts->kind;
    char *at = put_text(e, TEXT_TRIGGER, facts->trigger, facts->trigger_len, e->text);
    for (unsigned i = TEXT_ID; i < TEXTS; i++) {
        const struct cloudevent_span *a = &facts->event->attribute[attributes[i]];
        at = put_text(e, i, a->text, a->len, at);
    }
}

void decision_write(struct decision_log *log, const struct decision_facts *facts)
{
    struct entry e = {0};
    uint64_t words[WORDS];
    _Atomic uint64_t *slot = (_Atomic uint64_t *)log->entries + log->written++ % ENTRIES * WORDS;
    fill(&e, facts);
    memcpy(words, &e, sizeof words);
    uint64_t lock = atomic_load_explicit(slot, memory_order_relaxed) | 1;
    atomic_store_explicit(slot, lock, memory_order_relaxed);
    for (size_t i = 1; i < WORDS; i++) /* release: not seen before the odd lock */
        atomic_store_explicit(slot + i, words[i], memory_order_release);
    atomic_store_explicit(slot, lock + 1, memory_order_release);
}

/* --- reading --- */

/* A whole entry; false when there is none, or it is being written. */
static bool get(_Atomic uint64_t *slot, struct entry *ret_entry)
{
    uint64_t words[WORDS];
    words[0] = atomic_load_explicit(slot, memory_order_acquire);
    if (!words[0] || (words[0] & 1))
        return false;
    for (size_t i = 1; i < WORDS; i++) /* acquire: the second look at the lock comes last */
        words[i] = atomic_load_explicit(slot + i, memory_order_acquire);
    if (atomic_load_explicit(slot, memory_order_relaxed) != words[0])
        return false;
    memcpy(ret_entry, words, sizeof *ret_entry);
    return true;
}

static const char *get_text(const char *at, const char *end, uint8_t len, char out[DECISION_TEXT_MAX])
{
    size_t n = len < DECISION_TEXT_MAX ? len : DECISION_TEXT_MAX - 1;
    if (n > (size_t)(end - at))
        n = (size_t)(end - at);
    memcpy(out, at, n);
    out[n] = '\0';
    size_t shown = strlen(out);
    for (unsigned cut = 0; cut < 3 && shown && !utf8_valid(out, shown); cut++)
        shown--; /* cut inside a character */
    out[utf8_valid(out, shown) ? shown : 0] = '\0';
    return at + n;
}

static void show(const struct entry *e, struct decision *out)
{
    char *const texts[] = {[TEXT_TRIGGER] = out->trigger,
                           [TEXT_ID] = out->event_id,
                           [TEXT_SOURCE] = out->source,
                           [TEXT_TYPE] = out->type,
                           [TEXT_SUBJECT] = out->subject};
    const char *at = e->text;
    out->sequence = e->sequence;
    out->time_unix_ns = e->time_unix_ns;
    out->holds = e->flags & DECISION_HOLDS;
    out->fired = e->flags & DECISION_FIRED;
    for (unsigned i = 0; i < TEXTS; i++)
        at = get_text(at, e->text + TEXT_BYTES, e->len[i], texts[i]);
    decision_detail((enum decision_kind)e->kind, e->operands, out->detail);
}

/* Puts a decision into the list, which is sorted and keeps the `limit` oldest. */
static size_t insert(struct decision *list, size_t n, size_t limit, const struct entry *e)
{
    size_t at = n;
    while (at && list[at - 1].sequence > e->sequence)
        at--;
    if (at == limit)
        return n;
    size_t moved = (n < limit ? n : limit - 1) - at;
    memmove(&list[at + 1], &list[at], moved * sizeof *list);
    show(e, &list[at]);
    return n < limit ? n + 1 : n;
}

size_t decision_read(struct arena *arena, const char *trigger, uint64_t after, struct decision *ret_decisions,
                     size_t limit)
{
    size_t n = 0;
    uint64_t hash = trigger ? arena_name_hash(trigger, strlen(trigger)) : 0;
    for (unsigned shard = 0; shard < ARENA_MAX_SHARDS; shard++) {
        _Atomic uint64_t *slots = arena_decisions(arena, shard);
        for (size_t i = 0; i < ENTRIES && limit; i++) {
            struct entry e;
            if (get(slots + i * WORDS, &e) && e.sequence > after && (!trigger || e.trigger_hash == hash))
                n = insert(ret_decisions, n, limit, &e);
        }
    }
    return n;
}

/* --- words --- */

char *decision_detail(enum decision_kind kind, const int64_t operands[2], char out[DECISION_DETAIL_MAX])
{
    static const char *const targets[] = {
        [DECISION_JOIN] = "join", [DECISION_TOTAL] = "total_activations", [DECISION_THRESHOLD] = "threshold"};
    out[0] = '\0';
    switch (kind) {
    case DECISION_JOIN:
    case DECISION_TOTAL:
    case DECISION_THRESHOLD:
        if (kind != DECISION_THRESHOLD && operands[1] < 0)
            snprintf(out, DECISION_DETAIL_MAX, "counter %lld, %s not known yet", (long long)operands[0],
                     targets[kind]);
        else
            snprintf(out, DECISION_DETAIL_MAX, "counter %lld of %s %lld", (long long)operands[0],
                     targets[kind], (long long)operands[1]);
        break;
    case DECISION_GONE:
        snprintf(out, DECISION_DETAIL_MAX, "not evaluated: already fired");
        break;
    case DECISION_REPEAT:
        snprintf(out, DECISION_DETAIL_MAX, "not evaluated: repeated key");
        break;
    case DECISION_DEPENDENCIES:
        snprintf(out, DECISION_DETAIL_MAX, "%lld of %lld dependencies met", (long long)operands[0],
                 (long long)operands[1]);
        break;
    case DECISION_PLAIN:
    default: /* from outside: anything may come */
        break;
    }
    return out;
}

static void text_member(struct buffer *out, const char *before, const char *name, const char *text)
{
    buffer_printf(out, "%s\"%s\":", before, name);
    buffer_append_json(out, text, strlen(text));
}

void decision_write_json(const struct decision *decision, struct buffer *out)
{
    char time[CLOCK_ISO_MAX];
    buffer_printf(out, "{\"sequence\":%llu,\"time\":\"%s\"", (unsigned long long)decision->sequence,
                  clock_iso(decision->time_unix_ns, time));
    text_member(out, ",", "trigger", decision->trigger);
    text_member(out, ",\"event\":{", "id", decision->event_id);
    text_member(out, ",", "source", decision->source);
    text_member(out, ",", "type", decision->type);
    text_member(out, ",", "subject", decision->subject);
    buffer_printf(out, "},\"holds\":%s,\"fired\":%s", decision->holds ? "true" : "false",
                  decision->fired ? "true" : "false");
    text_member(out, ",", "detail", decision->detail);
    buffer_append_char(out, '}');
}
