#include "tests/support/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <json-c/json.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/support/redis_server.h"
#include "tests/support/workspace.h"

#define KEY_SIZE 33

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
    struct key *keys;
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
    for (size_t i = 0; i < reference->n; i++)
        while (reference->triggers[i].keys) {
            struct key *next = reference->triggers[i].keys->next;
            free(reference->triggers[i].keys);
            reference->triggers[i].keys = next;
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

int reference_store(const struct reference *reference, const struct workspace *workspace)
{
    static const char *const conditions[] = {"TRUE", "JOIN", "FUNCTION_JOIN", "COUNTER_THRESHOLD"};
    static const char *const targets[] = {NULL, "join", "total_activations", "threshold"};
    static const char *const sources[] = {NULL, NULL, NULL, "out", "in"};
    for (size_t i = 0; i < reference->n; i++) {
        const struct reference_trigger *t = &reference->triggers[i].is;
        char condition[64], action[256], context[64] = "{}", activation[256], source[48] = "", data[64] = "";
        snprintf(condition, sizeof condition, "{\"name\":\"%s\"}", conditions[t->condition]);
        if (targets[t->condition])
            snprintf(context, sizeof context, "{\"%s\":%lld}", targets[t->condition], (long long)t->target);
        snprintf(activation, sizeof activation,
                 "{\"specversion\":\"1.0\",\"type\":\"%s\",\"subject\":\"%s\"}", t->type, t->subject);
        if (sources[t->action])
            snprintf(source, sizeof source, "\"event_source\":\"%s\",", sources[t->action]);
        if (t->own_data)
            snprintf(data, sizeof data, ",\"data\":\"<%s>\"", t->id);
        if (emits(t))
            snprintf(action, sizeof action, "{\"name\":\"EMIT\",%s\"event\":{\"type\":\"%s\"%s}}", source,
                     t->emit_type, data);
        else
            snprintf(action, sizeof action, "{\"name\":\"%s\"}",
                     t->action == REFERENCE_TERMINATE ? "TERMINATE" : "PASS");
        if (workspace_trigger(workspace, t->id, condition, action, context, activation, t->transient) < 0)
            return -1;
    }
    return 0;
}

/* --- interpreting --- */

/* DESIGN section 4.7: a hash of (creation value, trigger uuid, firing number, element). */
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
    if (t->is.action != REFERENCE_EMIT_INTERNAL)
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
    for (const struct key *k = t->keys; k; k = k->next)
        if (!strcmp(k->text, key))
            return true;
    struct key *k = malloc(sizeof *k + strlen(key) + 1);
    if (!k)
        abort();
    memcpy(k->text, key, strlen(key) + 1);
    k->next = t->keys;
    t->keys = k;
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
        facts_add(&r->facts, "letter no_trigger %s", e->identity);
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
        facts_add(&r->facts, "letter too_large %s", position);
        return;
    }
    if (!member(fields, "id") || !member(fields, "source") || !member(fields, "type")) {
        facts_add(&r->facts, "letter invalid_event %s", position);
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

size_t reference_events(const struct reference *reference)
{
    return reference->events;
}

size_t reference_firings(const struct reference *reference)
{
    return reference->firings;
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
        if (t->n_keys)
            facts_add(facts, "keys %s %zu", t->is.id, t->n_keys);
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

/* By its place in the stream; by its id when we have emitted it, as the place varies. */
static void observe_letter(const struct reference *r, struct json_object *document, struct facts *facts)
{
    struct json_object *event = NULL;
    json_object_object_get_ex(document, "event", &event);
    bool ours = event && find(r, text_of(event, "source"));
    facts_add(facts, "letter %s %s", text_of(document, "reason"),
              ours ? text_of(event, "id") : text_of(document, "position"));
}

static void observe_checkpoint(const char *field, const redisReply *value, struct facts *facts)
{
    if (!strncmp(field, "fired:uuid-", 11))
        facts_add(facts, "fired %s %s", field + 11, value->str);
    if (!strncmp(field, "seen:", 5))
        facts_add(facts, "left behind: %s", field);
    if (!strcmp(field, "finished")) {
        struct json_object *document = json_tokener_parse(value->str);
        facts_add(facts, "finished %s", text_of(document, "count"));
        json_object_put(document);
    }
}

/* keys:<uuid>:<epoch> fields hold 32 hex digits a key. */
static size_t count_keys(const redisReply *fields, const char *id)
{
    char prefix[80];
    size_t digits = 0;
    int n = snprintf(prefix, sizeof prefix, "keys:uuid-%s:", id);
    for (size_t i = 0; i + 1 < fields->elements; i += 2)
        if (!strncmp(fields->element[i]->str, prefix, (size_t)n))
            digits += fields->element[i + 1]->len;
    return digits / 32;
}

static int observe_hash(const struct reference *r, const struct workspace *workspace, const char *set,
                        struct facts *facts)
{
    redisReply *all = redis_server_do(workspace->redis, "HGETALL %s-%s", workspace->name, set);
    int result = all && all->type == REDIS_REPLY_ARRAY ? 0 : -1;
    for (size_t i = 0; result == 0 && i + 1 < all->elements; i += 2) {
        if (!strcmp(set, "checkpoint")) {
            observe_checkpoint(all->element[i]->str, all->element[i + 1], facts);
            continue;
        }
        struct json_object *document = json_tokener_parse(all->element[i + 1]->str);
        if (!document)
            facts_add(facts, "not JSON: %s", all->element[i + 1]->str);
        else if (!strcmp(set, "triggers"))
            observe_trigger(all->element[i]->str, document, facts);
        else
            observe_letter(r, document, facts);
        json_object_put(document);
    }
    for (size_t i = 0; result == 0 && !strcmp(set, "checkpoint") && i < r->n; i++) {
        size_t keys = count_keys(all, r->triggers[i].is.id);
        if (keys)
            facts_add(facts, "keys %s %zu", r->triggers[i].is.id, keys);
    }
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

/* What the workflow has emitted into the stream, each id once. */
static int observe_stream(const struct reference *r, const struct workspace *workspace, const char *stream,
                          const char *where, struct facts *facts)
{
    redisReply *all = redis_server_do(workspace->redis, "XRANGE %s - +", stream);
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
    if (observe_hash(reference, workspace, "triggers", facts) < 0 ||
        observe_hash(reference, workspace, "checkpoint", facts) < 0 ||
        observe_hash(reference, workspace, "dead_letters", facts) < 0 ||
        observe_stream(reference, workspace, in, "back", facts) < 0)
        return -1;
    return observe_stream(reference, workspace, out, "out", facts);
}
