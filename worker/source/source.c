#include "worker/source/source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/emission.h"
#include "worker/record.h"
#include "worker/report.h"
#include "worker/router.h"
#include "worker/shard/shard.h"
#include "worker/shard/trigger.h"
#include "worker/shard/write.h"
#include "worker/source/parameter.h"
#include "worker/worker.h"

extern const struct source_type source_internal;

#define PUBLISH_EVERY 64            /* records */
#define SMALL_BATCH 8               /* records that are not worth waking a shard for */
#define WAIT_TIMEOUT (30 * CLOCK_S) /* a net under every sleep */
#define GIVE_WAY_NS 10000           /* at a time, to a waiting barrier */
#define GIVE_WAY_TIMES 100
#define BEAT_EVERY (20 * CLOCK_MS) /* while it waits for others: it is not the one that hangs */

/* An event source's document, as far as all classes have it. */
struct definition {
    const struct source_type *type;
    struct json_value parameters;
    bool consume;
    bool on_recreated_stop;
};

static int read_common(const struct json_value *parameters, struct definition *d, struct error *err)
{
    struct json_value value;
    if (parameter_bool(parameters, "consume", d->consume, &d->consume, err) < 0)
        return -1;
    if (json_member(parameters, "on_recreated", &value)) {
        if (value.type != JSON_STRING ||
            (!json_equals(&value, "start", 5) && !json_equals(&value, "stop", 4)))
            return parameter_wrong("on_recreated", &value, "\"start\" or \"stop\"", err);
        d->on_recreated_stop = json_equals(&value, "stop", 4);
    }
    return 0;
}

static int unknown_class(const struct json_value *name, struct error *err)
{
    BUFFER_AUTO known = BUFFER_INIT;
    source_names(&known);
    return error_set(err, ERROR_INVALID, "unknown class %.*s; known: %s",
                     (int)(name->len < 80 ? name->len : 80), name->text, buffer_text(&known));
}

/* Checks {"name","class","parameters"} and finds the class. own: it may be that of the internal source. */
static int read_definition(const struct json_value *root, bool own, struct definition *ret_definition,
                           struct error *err)
{
    struct definition d = {.consume = true};
    struct json_value value;
    if (root->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(root->type));
    if (!json_member(root, "class", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "member class is missing or not a string");
    d.type = source_find(value.text, value.len);
    if (!d.type || (d.type == &source_internal && !own))
        return unknown_class(&value, err);
    if (!json_member(root, "parameters", &d.parameters) || d.parameters.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "member parameters is missing or not an object");
    if (read_common(&d.parameters, &d, err) < 0)
        return -1;
    *ret_definition = d;
    return 0;
}

static bool is_one_of(const struct json_value *name, const char *const *names)
{
    for (; names && *names; names++)
        if (json_equals(name, *names, strlen(*names)))
            return true;
    return false;
}

/* Fails for a member that is in neither list, which it names, but not its value. */
static int check_known(const struct json_value *object, const char *what, const char *const *names,
                       const char *const *more, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value))
        if (!is_one_of(&name, names) && !is_one_of(&name, more))
            return error_set(err, ERROR_INVALID, "unknown %s %.*s", what,
                             (int)(name.len < 80 ? name.len : 80), name.text);
    return 0;
}

static int check_parameters(const struct definition *d, struct error *err)
{
    static const char *const common[] = {"consume", "on_recreated", NULL};
    if (check_known(&d->parameters, "parameter", common, d->type->parameters, err) < 0 ||
        (d->type->check && d->type->check(&d->parameters, err) < 0))
        return error_prefix(err, "%s", d->type->class_name);
    return 0;
}

static int check_name(const struct json_value *document, bool needed, struct error *err)
{
    struct json_value name;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(document, "name", &name) || name.type == JSON_NULL)
        return needed ? error_set(err, ERROR_INVALID, "member name is missing") : 0;
    if (name.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "member name is %s, not a string", json_type_name(name.type));
    json_unescape(&name, &text);
    if (!text.len || text.len > SOURCE_NAME_MAX || memchr(text.data, '\0', text.len))
        return error_set(err, ERROR_INVALID, "member name is not a text of 1 to %d bytes without NUL",
                         SOURCE_NAME_MAX);
    if (!strcmp(buffer_text(&text), "internal"))
        return error_set(err, ERROR_INVALID, "the name internal is that of the workflow's own event source");
    return 0;
}

static const char *const members[] = {"name", "class", "parameters", NULL};

int source_check(const struct json_value *document, struct error *err)
{
    struct definition d;
    if (read_definition(document, false, &d, err) < 0 || check_name(document, true, err) < 0 ||
        check_known(document, "member", members, NULL, err) < 0)
        return -1;
    return check_parameters(&d, err);
}

int source_check_target(const struct json_value *document, struct error *err)
{
    struct json_value value;
    struct definition d;
    if (document->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(document->type));
    if (check_known(document, "member", members, NULL, err) < 0)
        return -1;
    if (!json_member(document, "class", &value))
        return check_name(document, false, err);
    if (value.type == JSON_STRING && source_is_own(value.text, value.len))
        return 0;
    if (read_definition(document, false, &d, err) < 0 || check_name(document, false, err) < 0)
        return -1;
    if (!d.type->sink_open)
        return error_set(err, ERROR_INVALID, "class %s cannot be published to", d.type->class_name);
    return check_parameters(&d, err);
}

static int read_document(struct source *s, struct json_value *ret_parameters, struct error *err)
{
    struct json_value root;
    struct definition d;
    if (json_scan(s->document, s->document_len, &root, err) < 0 ||
        read_definition(&root, s->index == 0, &d, err) < 0)
        return -1;
    s->type = d.type;
    s->unordered = d.type->restore_consumed;
    s->consume = d.consume;
    s->on_recreated_stop = d.on_recreated_stop;
    *ret_parameters = d.parameters;
    return 0;
}

int source_new(struct worker *worker, unsigned index, const char *name, size_t name_len, const char *document,
               size_t document_len, struct source **ret_source, struct error *err)
{
    if (memchr(name, '\0', name_len) || !utf8_valid(name, name_len))
        return error_set(err, ERROR_INVALID, "its name is not UTF-8 text without NUL characters");
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    pthread_mutex_init(&s->emit, NULL);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->worker = worker;
    s->index = index;
    s->consume = true;
    s->name = strndup(name, name_len);
    s->name_hash = arena_name_hash(name, name_len);
    s->document = malloc(document_len + 1);
    s->stats = &worker->arena->source[index];
    s->life = &worker->arena->thread[ARENA_THREAD_SOURCE + index];
    s->poisoned = worker->arena->n_poison > 0;
    if (!s->name || !s->document || s->wake_fd < 0) {
        source_free(s);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    memcpy(s->document, document, document_len);
    s->document_len = document_len;
    for (unsigned i = 0; i < worker->n_shards; i++)
        ring_attach_producer(&s->rings[i], arena_ring(worker->arena, index, i), ARENA_RING_BYTES);
    struct json_value parameters;
    if (read_document(s, &parameters, err) < 0 || s->type->init(s, &parameters, err) < 0) {
        source_free(s);
        return -1;
    }
    memset(s->stats, 0, sizeof *s->stats);
    size_t shown = name_len < ARENA_NAME_MAX ? name_len : ARENA_NAME_MAX - 1;
    memcpy(s->stats->name, name, shown);
    s->stats->name[shown] = '\0';
    atomic_store_explicit(&s->stats->used, 1, memory_order_release);
    *ret_source = s;
    return 0;
}

static void *source_main(void *data)
{
    struct source *s = data;
    worker_thread_enter(s->worker, ARENA_THREAD_SOURCE + s->index, "source");
    s->type->run(s);
    atomic_store_explicit(&s->life->busy, 0, memory_order_relaxed);
    source_set_state(s, ARENA_SOURCE_STOPPED, NULL);
    atomic_store(&s->ended, true);
    return NULL;
}

int source_start(struct source *source, struct error *err)
{
    if (!source->consume) {
        source_set_state(source, ARENA_SOURCE_PUBLISH_ONLY, NULL);
        return 0;
    }
    source_set_state(source, ARENA_SOURCE_STARTING, NULL);
    if (worker_thread_start(&source->thread, source_main, source, err) < 0)
        return -1;
    source->started = true;
    return 0;
}

void source_stop(struct source *source)
{
    atomic_store(&source->stopping, true);
    source_wake(source);
    doorbell_ring(&source->worker->space[source->index]);
    checkpoint_interrupt(source->worker->checkpoint);
}

void source_join(struct source *source)
{
    if (source->started)
        pthread_join(source->thread, NULL);
    source->started = false;
}

void source_free(struct source *source)
{
    if (!source)
        return;
    if (source->type)
        source->type->done(source);
    changes_done(&source->changes[0]);
    changes_done(&source->changes[1]);
    buffer_done(&source->stored_position);
    if (source->wake_fd >= 0)
        close(source->wake_fd);
    pthread_mutex_destroy(&source->emit);
    free(source->document);
    free(source->name);
    free(source);
}

void source_wake(struct source *source)
{
    uint64_t one = 1;
    if (write(source->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_warn("source_wake", LOG_STR("source", source->name), LOG_STR("error", strerror(errno)));
}

bool source_stopping(const struct source *source)
{
    return atomic_load_explicit(&source->stopping, memory_order_relaxed);
}

/* --- batches --- */

/* Makes the records of all touched rings visible, and wakes their shards (at most once a batch, unless
 * urgent). */
static void publish(struct source *s)
{
    for (uint32_t left = s->touched; left; left &= left - 1)
        ring_publish(&s->rings[__builtin_ctz(left)]);
    s->woken_later |= s->touched;
    s->touched = 0;
    s->unpublished = 0;
}

static void wake_shards(struct source *s)
{
    for (uint32_t left = s->woken_later; left; left &= left - 1)
        shard_wake(s->worker->shards[__builtin_ctz(left)]);
    s->woken_later = 0;
}

/* Takes the emit lock while the workflow is not paused; or is, and the source is to stop: then nothing is
 * delivered. Who pauses it takes the lock afterwards, for the barrier: what is behind that was not begun. */
static void lock_unless_held(struct source *source)
{
    bool shown = false;
    pthread_mutex_lock(&source->emit);
    while (worker_held(source->worker) && !source_stopping(source) && !source->never_held) {
        pthread_mutex_unlock(&source->emit);
        if (!shown)
            source_set_state(source, ARENA_SOURCE_PAUSED, NULL);
        shown = true;
        source_poll(source, -1, 0, WAIT_TIMEOUT);
        pthread_mutex_lock(&source->emit);
    }
    if (shown && !source_stopping(source))
        source_set_state(source, ARENA_SOURCE_READING, NULL);
}

static void begin(struct source *source)
{
    source->router = atomic_load_explicit(&source->worker->router, memory_order_acquire);
    source->batch_records = 0;
    atomic_store_explicit(&source->life->busy, 1, memory_order_relaxed);
    arena_beat(source->life, clock_coarse_ns());
}

void source_begin_batch(struct source *source)
{
    lock_unless_held(source);
    begin(source);
}

/* Lets the checkpoint thread have the lock first, when it waits for it. */
static void give_way(const struct source *source)
{
    for (unsigned i = 0; i < GIVE_WAY_TIMES && atomic_load(&source->barrier_waits); i++)
        nanosleep(&(struct timespec){.tv_nsec = GIVE_WAY_NS}, NULL);
}

bool source_try_batch(struct source *source)
{
    give_way(source);
    pthread_mutex_lock(&source->emit);
    if (worker_held(source->worker)) {
        pthread_mutex_unlock(&source->emit);
        return false;
    }
    begin(source);
    return true;
}

void source_end_batch(struct source *source)
{
    publish(source);
    uint32_t shards = source->woken_later;
    bool small = source->batch_records <= SMALL_BATCH;
    source->woken_later = 0;
    atomic_store(&source->changed, true); /* seq_cst: see checkpoint_changed() */
    pthread_mutex_unlock(&source->emit);
    for (; shards; shards &= shards - 1) {
        struct shard *shard = source->worker->shards[__builtin_ctz(shards)];
        if (small)
            shard_help(shard);
        else
            shard_wake(shard);
    }
    checkpoint_changed(source->worker->checkpoint);
}

void source_cancel_batch(struct source *source)
{
    pthread_mutex_unlock(&source->emit);
}

bool source_fits(struct source *source, const struct cloudevent *event)
{
    size_t size = sizeof(struct record_event) + ROUTE_MAX_LISTS * sizeof(struct route_list) +
                  cloudevent_packed_size(event);
    if (size > RING_MAX_RECORD)
        size = sizeof(struct record_event *);
    uint64_t bytes =
        2 * (size + 2 * sizeof(uint64_t)) + RING_RESERVE; /* it may have to start at the beginning */
    for (unsigned i = 0; i < source->worker->n_shards; i++) {
        struct ring_producer *p = &source->rings[i];
        if (p->bytes - (p->head - p->tail_seen) < bytes && ring_free(p) < bytes)
            return false;
    }
    return true;
}

void source_barrier(struct source *source, uint64_t epoch, uint32_t sources)
{
    atomic_store_explicit(&source->changed, false, memory_order_relaxed);
    source->filling ^= 1;
    source->filling_epoch = epoch + 1;
    changes_reset(&source->changes[source->filling]);
    source->barrier_position[0] = source->last_position[0];
    source->barrier_position[1] = source->last_position[1];
    source->barrier_read = arena_get(&source->stats->read);
    for (unsigned i = 0; i < source->worker->n_shards; i++) {
        struct record_barrier *b = ring_reserve(&source->rings[i], sizeof *b, RECORD_BARRIER, true);
        if (!b)
            abort(); /* the reserve is larger than a barrier, and only one is under way */
        *b = (struct record_barrier){.epoch = epoch, .sources = sources};
        ring_publish(&source->rings[i]);
    }
}

/* Waits for room in a ring. The shard that owns it never waits for this source, so it comes. */
static void wait_space(struct source *s, unsigned shard, uint64_t bytes)
{
    struct doorbell *space = &s->worker->space[s->index];
    publish(s);
    wake_shards(s);
    while (ring_free(&s->rings[shard]) < bytes) {
        doorbell_arm(space);
        if (ring_free(&s->rings[shard]) >= bytes) {
            doorbell_disarm(space);
            return;
        }
        doorbell_wait(space, BEAT_EVERY);
        arena_beat(s->life, clock_coarse_ns());
    }
}

static void *reserve_space(struct source *s, unsigned shard, uint32_t bytes, uint32_t kind)
{
    void *space;
    while (!(space = ring_reserve(&s->rings[shard], bytes, kind, false)))
        wait_space(s, shard, ARENA_RING_BYTES / 2);
    s->touched |= 1u << shard;
    return space;
}

static void count_record(struct source *s)
{
    s->batch_records++;
    if (++s->unpublished >= PUBLISH_EVERY)
        publish(s);
}

static struct record_event *reserve(struct source *s, unsigned shard, size_t size,
                                    struct record_event **large)
{
    *large = NULL;
    uint32_t kind = RECORD_EVENT;
    uint32_t bytes = (uint32_t)size;
    if (size > RING_MAX_RECORD) {
        kind = RECORD_LARGE;
        bytes = sizeof(struct record_event *);
        while (!(*large = malloc(size))) /* the event waits rather than be lost */
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    void *space = reserve_space(s, shard, bytes, kind);
    if (!*large)
        return space;
    *(struct record_event **)space = *large;
    return *large;
}

static void push(struct source *s, unsigned shard, const struct route_list *lists, uint8_t n,
                 const struct record_event *head, const struct cloudevent *event, size_t packed_size)
{
    struct record_event *large;
    struct record_event *r = reserve(s, shard, sizeof *r + n * sizeof lists[0] + packed_size, &large);
    *r = *head;
    r->n_lists = n;
    memcpy(record_lists(r), lists, n * sizeof lists[0]);
    cloudevent_pack(event, record_packed(r));
    count_record(s);
}

static void push_routes(struct source *s, unsigned shard, const struct route *const *routes,
                        unsigned n_routes, const struct record_event *head, const struct cloudevent *event,
                        size_t packed_size)
{
    struct route_list lists[ROUTE_MAX_LISTS];
    uint8_t n = 0;
    for (unsigned i = 0; i < n_routes; i++)
        if (routes[i]->lists[shard].n)
            lists[n++] = routes[i]->lists[shard];
    push(s, shard, lists, n, head, event, packed_size);
}

/* Puts the event into the ring of every shard that has a trigger for it. Whether there was one. */
static bool route_event(struct source *s, const struct cloudevent *event, const uint64_t position[2],
                        bool has_key, bool is_write)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    unsigned n_routes = router_match(s->router, event, routes);
    uint32_t shards = 0;
    for (unsigned i = 0; i < n_routes; i++)
        for (unsigned j = 0; j < s->worker->n_shards; j++)
            shards |= routes[i]->lists[j].n ? 1u << j : 0;
    if (!shards)
        return false;
    bool only = !(shards & (shards - 1));
    struct record_event head = {.position = {position[0], position[1]},
                                .source = s->name_hash,
                                .source_index = s->index,
                                .only = only,
                                .has_key = has_key,
                                .is_write = is_write};
    size_t packed = cloudevent_packed_size(event);
    for (uint32_t left = shards; left; left &= left - 1)
        push_routes(s, (unsigned)__builtin_ctz(left), routes, n_routes, &head, event, packed);
    return true;
}

/* Whether this event has killed the worker too often. The table does not change while the worker runs. */
static bool is_poison(const struct source *s, const uint64_t position[2])
{
    const struct arena *arena = s->worker->arena;
    for (uint32_t i = 0; i < arena->n_poison && i < ARENA_MAX_POISON; i++) {
        const struct arena_poison *p = &arena->poison[i];
        if (p->event.source == s->name_hash && p->event.position[0] == position[0] &&
            p->event.position[1] == position[1] && p->deaths >= ARENA_POISON_DEATHS)
            return true;
    }
    return false;
}

static void count_read(struct source *s, const uint64_t position[2])
{
    s->last_position[0] = position[0];
    s->last_position[1] = position[1];
    arena_add(&s->stats->read, 1);
}

static void dead_letter(struct source *s, const char *reason, const char *detail, const uint64_t position[2],
                        const struct cloudevent *event, const char *body, size_t body_len)
{
    char text[48];
    snprintf(text, sizeof text, "%llu-%llu", (unsigned long long)position[0],
             (unsigned long long)position[1]);
    struct dead_letter letter = {.reason = reason,
                                 .detail = detail,
                                 .source = s->name,
                                 .position = text,
                                 .event = event,
                                 .body = body,
                                 .body_len = body_len};
    dead_letter_add(&letter, &s->changes[s->filling]);
    arena_add(&s->stats->dead_letters, 1);
}

bool source_routes(const struct source *source, const struct cloudevent *event)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    return router_match(source->router, event, routes) > 0;
}

/* Lets the batch so far go and waits for triggers that were stored meanwhile. */
static int wait_triggers(struct source *s)
{
    source_end_batch(s);
    int r = checkpoint_reload_wait(s->worker->checkpoint, s);
    source_begin_batch(s);
    return r || (s->never_held && worker_held(s->worker)) ? SOURCE_STOPPED : 0;
}

int source_deliver(struct source *source, const struct cloudevent *event, const uint64_t position[2],
                   bool has_key)
{
    struct emissions *emissions = source->worker->emissions;
    bool waited = false;
    if (worker_held(source->worker) && (source->never_held || source_stopping(source)))
        return SOURCE_STOPPED;
    if (source->poisoned && is_poison(source, position)) {
        dead_letter(source, "crashed_worker", "the worker died three times while it had this event in hand",
                    position, event, NULL, 0);
        count_read(source, position);
        return 0;
    }
    if (emissions_any(emissions)) {
        /* Checkpoints commit without this event while it waits, so it must not be remembered as seen yet. */
        waited = !source_routes(source, event);
        if (waited && wait_triggers(source))
            return SOURCE_STOPPED;
        if (emissions_see(emissions, source, event->attribute[CE_ID].text, event->attribute[CE_ID].len) ==
            EMISSION_REPEAT) {
            source_drop(source, position);
            return 0;
        }
    }
    bool routed = route_event(source, event, position, has_key, false);
    if (!routed && !waited) {
        if (wait_triggers(source))
            return SOURCE_STOPPED;
        routed = route_event(source, event, position, has_key, false);
    }
    if (!routed) {
        char detail[DEAD_LETTER_DETAIL];
        dead_letter_unmatched(event, detail);
        dead_letter(source, "no_trigger", detail, position, event, NULL, 0);
    }
    count_read(source, position);
    return 0;
}

/* To the trigger of that id. */
static bool route_to_target(struct source *s, const struct cloudevent *carrier, const uint64_t position[2])
{
    const struct cloudevent_span *id = &carrier->attribute[CE_SUBJECT];
    const struct route_list *list = router_target(s->router, id->text ? id->text : "", id->len);
    if (!list)
        return false;
    struct record_event head = {.position = {position[0], position[1]},
                                .source = s->name_hash,
                                .source_index = s->index,
                                .only = 1,
                                .is_write = 1};
    push(s, list->triggers[0]->shard, list, 1, &head, carrier, cloudevent_packed_size(carrier));
    return true;
}

static void dead_write(struct source *s, const char *reason, const char *detail, const uint64_t position[2],
                       const struct cloudevent *carrier)
{
    BUFFER_AUTO body = BUFFER_INIT;
    write_letter(carrier, &body);
    s->changes[s->filling].text.failed |= body.failed; /* it must not be committed without */
    dead_letter(s, reason, detail, position, NULL, body.data, body.len);
}

int source_deliver_write(struct source *source, const struct cloudevent *carrier, const uint64_t position[2])
{
    if (worker_held(source->worker) && (source->never_held || source_stopping(source)))
        return SOURCE_STOPPED;
    if (source->poisoned && is_poison(source, position)) {
        dead_write(source, "crashed_worker", "the worker died three times while it had this write in hand",
                   position, carrier);
    } else if (!write_is_addressed(carrier)) {
        route_event(source, carrier, position, false, true);
    } else if (!route_to_target(source, carrier, position)) {
        if (wait_triggers(source))
            return SOURCE_STOPPED;
        if (!route_to_target(source, carrier, position)) {
            char detail[DEAD_LETTER_DETAIL];
            dead_letter_no_target(carrier, detail);
            dead_write(source, "no_trigger", detail, position, carrier);
        }
    }
    count_read(source, position);
    return 0;
}

/* Behind the writes, with the shard that one of them has gone to last, if any: then no other has to wake. To
 * all shards when it will not wait for a commit: the last one to come to it opens it. */
static uint32_t shards_of_intent(const struct source *s)
{
    const struct worker *w = s->worker;
    uint32_t all = (uint32_t)((1ull << w->n_shards) - 1);
    uint32_t busy = s->touched | s->woken_later;
    if (w->config->action_start == CONFIG_ACTION_IMMEDIATE)
        return all;
    return busy ? busy & -busy : 1u << s->batch_records % w->n_shards;
}

int source_deliver_intent(struct source *source, const char *document, size_t len)
{
    struct held_intent *held;
    if (worker_held(source->worker) && (source->never_held || source_stopping(source)))
        return SOURCE_STOPPED;
    uint32_t shards = shards_of_intent(source);
    while (!(held = malloc(sizeof *held + len))) /* it waits rather than be lost */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    atomic_init(&held->left, (unsigned)__builtin_popcount(shards));
    held->len = len;
    memcpy(held->document, document, len);
    for (; shards; shards &= shards - 1) {
        struct held_intent **record =
            reserve_space(source, (unsigned)__builtin_ctz(shards), sizeof held, RECORD_INTENT);
        *record = held;
        count_record(source);
    }
    arena_add(&source->stats->read, 1);
    return 0;
}

void source_reject(struct source *source, const char *reason, const char *detail, const uint64_t position[2],
                   const char *body, size_t body_len)
{
    dead_letter(source, reason, detail, position, NULL, body, body_len);
    count_read(source, position);
}

void source_drop(struct source *source, const uint64_t position[2])
{
    arena_add(&source->stats->duplicates, 1);
    count_read(source, position);
}

/* --- waiting --- */

bool source_poll(struct source *source, int fd, short events, uint64_t timeout_ns)
{
    struct pollfd fds[2] = {{.fd = source->wake_fd, .events = POLLIN}, {.fd = fd, .events = events}};
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / CLOCK_S),
                               .tv_nsec = (long)(timeout_ns % CLOCK_S)};
    atomic_store_explicit(&source->life->busy, 0, memory_order_relaxed);
    int n = ppoll(fds, 2, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL);
    arena_beat(source->life, clock_coarse_ns());
    atomic_store_explicit(&source->life->busy, 1, memory_order_relaxed);
    if (n > 0 && fds[0].revents) {
        uint64_t count;
        if (read(source->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
            log_warn("source_wake", LOG_STR("source", source->name), LOG_STR("error", strerror(errno)));
    }
    return n > 0 && fds[1].revents;
}

bool source_has_room(struct source *source)
{
    struct worker *w = source->worker;
    return !atomic_load(&w->arena->worker.dead_letters_full) && !worker_held(w) &&
           worker_in_flight(w) < (uint64_t)w->config->sink_max_size;
}

bool source_ask_room(struct source *source)
{
    if (source_has_room(source))
        return true;
    atomic_store(&source->worker->paused, true); /* whoever makes room looks at it afterwards */
    return source_has_room(source);
}

int source_wait_room(struct source *source)
{
    struct worker *w = source->worker;
    bool shown = false;
    while (!source_stopping(source) && !source_ask_room(source)) {
        bool full = atomic_load(&w->arena->worker.dead_letters_full);
        if (!shown)
            source_set_state(source, ARENA_SOURCE_PAUSED, full ? "the dead letters are full" : NULL);
        shown = true;
        source_poll(source, -1, 0, WAIT_TIMEOUT);
    }
    if (source_stopping(source))
        return SOURCE_STOPPED;
    if (shown)
        source_set_state(source, ARENA_SOURCE_READING, NULL);
    return 0;
}

void source_set_state(struct source *source, enum arena_source_state state, const char *error)
{
    atomic_store_explicit(&source->stats->state, (uint32_t)state, memory_order_relaxed);
    report_source(source->worker->report, source->index, source->name, source->type->class_name, state,
                  error);
}
