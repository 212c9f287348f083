#include "tests/support/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <json-c/json.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "tests/support/redis_server.h"
#include "tests/support/workspace.h"

#define KEY_SIZE 33
#define KEY_LISTS 1024

struct event {
    struct event *next;
    char *id, *type, *subject, *data, *key;
    char identity[96]; /* in a dead letter */
};

struct key {
    struct key *next;
    char text[];
};

struct state {
    struct reference_trigger is;
    int64_t counter;
    uint64_t firings;
    bool gone;
    struct key *keys[KEY_LISTS]; /* by their hash */
    size_t n_keys;
};

struct reference {
    char workspace[64];
    char creation[32];
    struct state *triggers;
    size_t n;
    struct event *first; /* waiting */
    struct event **last;
    size_t events;
    size_t firings;
    uint64_t finished;
    struct facts facts; /* dead letters and emissions */
    size_t letters;
    bool by_id; /* dead letters are known by their event's id: events came by reference_take() */
};

/* --- events --- */

static char *copy(const char *text)
{
    char *c = text ? strdup(text) : NULL;
    if (text && !c)
        abort();
    return c;
}

static void event_free(struct event *e)
{
    free(e->id);
    free(e->type);
    free(e->subject);
    free(e->data);
    free(e->key);
    free(e);
}

static struct event *event_new(void)
{
    struct event *e = calloc(1, sizeof *e);
    if (!e)
        abort();
    return e;
}

static void append(struct reference *r, struct event *e)
{
    *r->last = e;
    r->last = &e->next;
}

/* --- triggers --- */

struct reference *reference_new(const struct workspace *workspace, const struct reference_trigger *triggers,
                                size_t n)
{
    struct reference *r = calloc(1, sizeof *r);
    if (!r || !(r->triggers = calloc(n, sizeof *r->triggers)))
        abort();
    snprintf(r->workspace, sizeof r->workspace, "%s", workspace->name);
    snprintf(r->creation, sizeof r->creation, "%s", workspace->creation);
    r->last = &r->first;
    r->n = n;
    for (size_t i = 0; i < n; i++)
        r->triggers[i].is = triggers[i];
    return r;
}

void reference_free(struct reference *reference)
{
    if (!reference)
        return;
    for (size_t i = 0; i < reference->n * KEY_LISTS; i++)
        for (struct key **list = &reference->triggers[i / KEY_LISTS].keys[i % KEY_LISTS]; *list;) {
            struct key *next = (*list)->next;
            free(*list);
            *list = next;
        }
    while (reference->first) {
        struct event *next = reference->first->next;
        event_free(reference->first);
        reference->first = next;
    }
    facts_done(&reference->facts);
    free(reference->triggers);
    free(reference);
}

static bool emits(const struct reference_trigger *t)
{
    return t->action >= REFERENCE_EMIT_INTERNAL;
}

static void append_action(const struct reference_trigger *t, struct buffer *out)
{
    static const char *const sources[] = {NULL, NULL, NULL, "out", "in"};
    if (!emits(t)) {
        buffer_printf(out, "{\"name\":\"%s\"}", t->action == REFERENCE_TERMINATE ? "TERMINATE" : "PASS");
        return;
    }
    buffer_append_text(out, "{\"name\":\"EMIT\",");
    if (sources[t->action])
        buffer_printf(out, "\"event_source\":\"%s\",", sources[t->action]);
    buffer_printf(out, "\"event\":{\"type\":\"%s\"", t->emit_type);
    if (t->own_data)
        buffer_printf(out, ",\"data\":\"<%s>\"", t->id);
    buffer_append_text(out, "}}");
}

void reference_document(const struct reference *reference, size_t i, struct buffer *out)
{
    static const char *const conditions[] = {"TRUE", "JOIN", "FUNCTION_JOIN", "COUNTER_THRESHOLD"};
    static const char *const targets[] = {NULL, "join", "total_activations", "threshold"};
    const struct reference_trigger *t = &reference->triggers[i].is;
    buffer_printf(out,
                  "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"%s\",\"timestamp\":\"2020-10-20T13:00:"
                  "00.000000\",\"condition\":{\"name\":\"%s\"},\"action\":",
                  t->id, t->id, reference->workspace, conditions[t->condition]);
    append_action(t, out);
    buffer_append_text(out, ",\"context\":{");
    if (targets[t->condition])
        buffer_printf(out, "\"%s\":%lld", targets[t->condition], (long long)t->target);
    buffer_printf(out,
                  "},\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"%s\",\"subject\":\"%s\"}],"
                  "\"transient\":%s}",
                  t->type, t->subject, t->transient ? "true" : "false");
}

int reference_store(const struct reference *reference, const struct workspace *workspace)
{
    for (size_t i = 0; i < reference->n; i++) {
        BUFFER_AUTO document = BUFFER_INIT;
        reference_document(reference, i, &document);
        if (workspace_put_trigger(workspace, reference->triggers[i].is.id, buffer_text(&document)) < 0)
            return -1;
    }
    return 0;
}

/* --- interpreting --- */

/* DESIGN section 4.7: a hash of (creation value, trigger uuid, firing number, element); its last 32 bits are
 * the element, here 0, xor what the others give. */
static void firing_key(const struct reference *r, const struct state *t, char ret_key[KEY_SIZE])
{
    char identity[64];
    uint64_t numbers[2] = {t->firings, 0};
    XXH3_state_t state;
    snprintf(identity, sizeof identity, "uuid-%s", t->is.id);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, r->creation, strlen(r->creation) + 1);
    XXH3_128bits_update(&state, identity, strlen(identity) + 1);
    XXH3_128bits_update(&state, numbers, sizeof numbers);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    uint32_t mask = (uint32_t)(((h.high64 ^ h.low64 >> 32) * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
    h.low64 = (h.low64 & ~UINT64_C(0xFFFFFFFF)) | mask;
    snprintf(ret_key, KEY_SIZE, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

static const struct state *find(const struct reference *r, const char *source)
{
    char text[160];
    for (size_t i = 0; i < r->n; i++) {
        snprintf(text, sizeof text, "urn:triggerflow:%s:%s", r->workspace, r->triggers[i].is.id);
        if (source && !strcmp(text, source))
            return &r->triggers[i];
    }
    return NULL;
}

/* Which data belongs to which key is certain only when the order is. */
static void emission_facts(struct facts *facts, const struct reference_trigger *t, const char *where,
                           const char *id, const char *type, const char *subject, const char *data)
{
    facts_add(facts, "%s %s %s %s %s %s", where, t->id, id, type, subject, t->unordered ? "" : data);
    if (t->unordered)
        facts_add(facts, "%s data %s %s", where, t->id, data);
}

static void emit(struct reference *r, const struct state *t, const struct event *from)
{
    char key[KEY_SIZE], own[64];
    struct event *e = event_new();
    firing_key(r, t, key);
    snprintf(own, sizeof own, "<%s>", t->is.id);
    e->id = copy(key);
    e->type = copy(t->is.emit_type);
    e->subject = copy(from->subject);
    e->data = copy(t->is.own_data ? own : from->data);
    snprintf(e->identity, sizeof e->identity, "%s", key);
    if (t->is.action == REFERENCE_EMIT_OUT || (t->is.action == REFERENCE_EMIT_BACK && !r->by_id))
        emission_facts(&r->facts, &t->is, t->is.action == REFERENCE_EMIT_OUT ? "out" : "back", e->id, e->type,
                       e->subject, e->data);
    if (t->is.action == REFERENCE_EMIT_OUT)
        event_free(e);
    else
        append(r, e);
}

static void fire(struct reference *r, struct state *t, const struct event *e)
{
    t->firings++;
    r->firings++;
    t->gone = t->is.transient;
    if (t->is.action == REFERENCE_TERMINATE)
        r->finished++;
    if (emits(&t->is))
        emit(r, t, e);
}

static bool is_repeat(struct state *t, const char *key)
{
    struct key **list = &t->keys[XXH3_64bits(key, strlen(key)) % KEY_LISTS];
    for (const struct key *k = *list; k; k = k->next)
        if (!strcmp(k->text, key))
            return true;
    struct key *k = malloc(sizeof *k + strlen(key) + 1);
    if (!k)
        abort();
    memcpy(k->text, key, strlen(key) + 1);
    k->next = *list;
    *list = k;
    t->n_keys++;
    return false;
}

static void activate(struct reference *r, struct state *t, const struct event *e)
{
    bool joins = t->is.condition == REFERENCE_JOIN || t->is.condition == REFERENCE_FUNCTION_JOIN;
    if (e->key && joins && is_repeat(t, e->key))
        return;
    if (t->is.condition != REFERENCE_TRUE)
        t->counter++;
    if (t->is.condition == REFERENCE_TRUE || (joins && t->counter == t->is.target) ||
        (!joins && t->counter >= t->is.target))
        fire(r, t, e);
}

static void add_letter(struct reference *r, const char *reason, const char *identity)
{
    facts_add(&r->facts, "letter %s %s", reason, identity);
    r->letters++;
}

static bool matches(const char *pattern, const char *text)
{
    return !strcmp(pattern, "*") || !strcmp(pattern, text);
}

static void process(struct reference *r, const struct event *e)
{
    bool matched = false;
    r->events++;
    for (size_t i = 0; i < r->n; i++) {
        struct state *t = &r->triggers[i];
        if (t->gone || !matches(t->is.type, e->type) || !matches(t->is.subject, e->subject))
            continue;
        matched = true;
        activate(r, t, e);
    }
    if (!matched)
        add_letter(r, "no_trigger", r->by_id ? e->id : e->identity);
}

static void process_waiting(struct reference *r)
{
    while (r->first) {
        struct event *e = r->first;
        process(r, e);
        if (!(r->first = e->next))
            r->last = &r->first;
        event_free(e);
    }
}

/* --- streams --- */

static const char *member(const redisReply *fields, const char *name)
{
    for (size_t i = 0; i + 1 < fields->elements; i += 2)
        if (!strcmp(fields->element[i]->str, name))
            return fields->element[i + 1]->str;
    return NULL;
}

static const char *or_empty(const char *text)
{
    return text ? text : "";
}

static void take_entry(struct reference *r, const redisReply *entry, size_t max_bytes)
{
    const char *position = entry->element[0]->str;
    const redisReply *fields = entry->element[1];
    size_t bytes = 0;
    if (find(r, member(fields, "source")))
        return;
    for (size_t i = 0; i < fields->elements; i++)
        bytes += fields->element[i]->len;
    r->events++;
    if (bytes > max_bytes) {
        add_letter(r, "too_large", position);
        return;
    }
    if (!member(fields, "id") || !member(fields, "source") || !member(fields, "type")) {
        add_letter(r, "invalid_event", position);
        return;
    }
    r->events--;
    struct event *e = event_new();
    e->id = copy(member(fields, "id"));
    e->type = copy(member(fields, "type"));
    e->subject = copy(or_empty(member(fields, "subject")));
    e->data = copy(or_empty(member(fields, "data")));
    e->key = copy(member(fields, "triggerflowkey"));
    snprintf(e->identity, sizeof e->identity, "%s", position);
    append(r, e);
    process_waiting(r);
}

int reference_run(struct reference *reference, const struct workspace *workspace, const char *stream,
                  size_t max_bytes)
{
    redisReply *all = redis_server_do(workspace->redis, "XRANGE %s - +", stream);
    int r = all && all->type == REDIS_REPLY_ARRAY ? 0 : -1;
    for (size_t i = 0; r == 0 && i < all->elements; i++)
        take_entry(reference, all->element[i], max_bytes);
    if (all)
        freeReplyObject(all);
    return r;
}

void reference_take(struct reference *reference, const struct publication *event)
{
    struct event *e = event_new();
    reference->by_id = true;
    e->id = copy(event->id);
    e->type = copy(event->type);
    e->subject = copy(or_empty(event->subject));
    e->data = copy(or_empty(event->data));
    e->key = copy(event->key);
    append(reference, e);
    process_waiting(reference);
}

void reference_refuse(struct reference *reference, const char *reason)
{
    reference->by_id = true;
    reference->events++;
    add_letter(reference, reason, "");
}

size_t reference_events(const struct reference *reference)
{
    return reference->events;
}

size_t reference_firings(const struct reference *reference)
{
    return reference->firings;
}

int64_t reference_counter(const struct reference *reference, const char *id)
{
    for (size_t i = 0; i < reference->n; i++)
        if (!strcmp(reference->triggers[i].is.id, id))
            return reference->triggers[i].gone ? -1 : reference->triggers[i].counter;
    return -1;
}

size_t reference_letters(const struct reference *reference)
{
    return reference->letters;
}

/* --- facts --- */

void reference_facts(const struct reference *reference, struct facts *facts)
{
    for (size_t i = 0; i < reference->n; i++) {
        const struct state *t = &reference->triggers[i];
        if (t->gone)
            continue;
        facts_add(facts, "trigger %s %lld", t->is.id, (long long)t->counter);
        if (t->firings)
            facts_add(facts, "fired %s %llu", t->is.id, (unsigned long long)t->firings);
        for (size_t k = 0; k < t->n_keys; k++)
            facts_add(facts, "key %s", t->is.id);
    }
    if (reference->finished)
        facts_add(facts, "finished %llu", (unsigned long long)reference->finished);
    for (size_t i = 0; i < reference->facts.n; i++)
        facts_add(facts, "%s", reference->facts.lines[i]);
}

static const char *text_of(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    return json_object_object_get_ex(object, name, &value) ? json_object_get_string(value) : "";
}

static void observe_trigger(const char *id, struct json_object *document, struct facts *facts)
{
    struct json_object *context = NULL;
    struct json_object *counter = NULL;
    json_object_object_get_ex(document, "context", &context);
    json_object_object_get_ex(context, "counter", &counter);
    facts_add(facts, "trigger %s %lld", id, (long long)json_object_get_int64(counter));
}

/* By its place in the stream; by its id when we have emitted it, as the place varies, or when all are. */
static void observe_letter(const struct reference *r, struct json_object *document, struct facts *facts)
{
    const char *reason = text_of(document, "reason");
    struct json_object *event = NULL;
    json_object_object_get_ex(document, "event", &event);
    if (!r->by_id && !(event && find(r, text_of(event, "source"))))
        facts_add(facts, "letter %s %s", reason, text_of(document, "position"));
    else
        facts_add(facts, "letter %s %s", reason, strcmp(reason, "too_large") ? text_of(event, "id") : "");
}

/* keys:uuid-<id>:<epoch> fields hold 32 hex digits a key. */
static void observe_keys(const char *field, size_t len, struct facts *facts)
{
    int id = (int)(strrchr(field, ':') - field);
    for (size_t i = 0; i < len / 32; i++)
        facts_add(facts, "key %.*s", id - 10, field + 10);
}

static void observe_checkpoint(const struct reference *r, const char *field, const char *value, size_t len,
                               struct facts *facts)
{
    if (!strncmp(field, "fired:uuid-", 11))
        facts_add(facts, "fired %s %s", field + 11, value);
    if (!strncmp(field, "keys:uuid-", 10))
        observe_keys(field, len, facts);
    if (!strncmp(field, "seen:", 5) && !r->by_id)
        facts_add(facts, "left behind: %s", field);
    if (!strcmp(field, "finished")) {
        struct json_object *document = json_tokener_parse(value);
        facts_add(facts, "finished %s", text_of(document, "count"));
        json_object_put(document);
    }
}

void reference_see(const struct reference *reference, enum storage_set set, const char *field,
                   const char *value, size_t len, struct facts *facts)
{
    if (set == STORAGE_CHECKPOINT) {
        observe_checkpoint(reference, field, value, len, facts);
        return;
    }
    struct json_object *document = json_tokener_parse(value);
    if (!document)
        facts_add(facts, "not JSON: %s", value);
    else if (set == STORAGE_TRIGGERS)
        observe_trigger(field, document, facts);
    else
        observe_letter(reference, document, facts);
    json_object_put(document);
}

static int observe_hash(const struct reference *r, const struct workspace *workspace, enum storage_set set,
                        struct facts *facts)
{
    redisReply *all =
        redis_server_do(workspace->redis, "HGETALL %s-%s", workspace->name, storage_set_name(set));
    int result = all && all->type == REDIS_REPLY_ARRAY ? 0 : -1;
    for (size_t i = 0; result == 0 && i + 1 < all->elements; i += 2)
        reference_see(r, set, all->element[i]->str, all->element[i + 1]->str, all->element[i + 1]->len,
                      facts);
    if (all)
        freeReplyObject(all);
    return result;
}

static int compare_entries(const void *a, const void *b)
{
    const redisReply *const *x = a;
    const redisReply *const *y = b;
    return strcmp(or_empty(member((*x)->element[1], "id")), or_empty(member((*y)->element[1], "id")));
}

static bool same_fields(const redisReply *a, const redisReply *b)
{
    bool same = a->elements == b->elements;
    for (size_t i = 0; same && i < a->elements; i++)
        same = !strcmp(a->element[i]->str, b->element[i]->str);
    return same;
}

int reference_see_stream(const struct reference *reference, struct redis_server *redis, const char *stream,
                         const char *where, struct facts *facts)
{
    const struct reference *r = reference;
    redisReply *all = redis_server_do(redis, "XRANGE %s - +", stream);
    int result = all && all->type == REDIS_REPLY_ARRAY ? 0 : -1;
    if (result == 0 && all->elements)
        qsort(all->element, all->elements, sizeof *all->element, compare_entries);
    const redisReply *before = NULL;
    for (size_t i = 0; result == 0 && i < all->elements; i++) {
        const redisReply *fields = all->element[i]->element[1];
        const struct state *t = find(r, member(fields, "source"));
        if (!t)
            continue;
        const char *id = or_empty(member(fields, "id"));
        if (before && !strcmp(or_empty(member(before, "id")), id)) {
            if (!same_fields(before, fields))
                facts_add(facts, "%s: repeats of %s differ: %s %s", where, id,
                          or_empty(member(before, "data")), or_empty(member(fields, "data")));
            continue;
        }
        before = fields;
        emission_facts(facts, &t->is, where, id, or_empty(member(fields, "type")),
                       or_empty(member(fields, "subject")), or_empty(member(fields, "data")));
    }
    if (all)
        freeReplyObject(all);
    return result;
}

int reference_observe(const struct reference *reference, const struct workspace *workspace, const char *in,
                      const char *out, struct facts *facts)
{
    if (observe_hash(reference, workspace, STORAGE_TRIGGERS, facts) < 0 ||
        observe_hash(reference, workspace, STORAGE_CHECKPOINT, facts) < 0 ||
        observe_hash(reference, workspace, STORAGE_DEAD_LETTERS, facts) < 0 ||
        reference_see_stream(reference, workspace->redis, in, "back", facts) < 0)
        return -1;
    return reference_see_stream(reference, workspace->redis, out, "out", facts);
}
