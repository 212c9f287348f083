/* See monitor.h. */
#include "supervisor/monitor.h"

#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"

void monitor_copy_text(char *to, size_t size, const char *text, size_t len)
{
    const char *nul = len > 0 ? memchr(text, '\0', len) : NULL;
    if (nul)
        len = (size_t)(nul - text);
    if (len >= size) {
        len = size - 1;
        while (len > 0 && ((unsigned char)text[len] & 0xc0u) == 0x80u)
            len--;
    }
    if (len > 0)
        memcpy(to, text, len);
    to[len] = '\0';
    if (utf8_valid(to, len))
        return;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)to[i] >= 0x80u)
            to[i] = '?';
}

/* The text of a string member; empty when it is absent. */
static int frame_text(const struct json_value *message, const char *name, char *to, size_t size,
                      struct error *err)
{
    struct json_value value;
    to[0] = '\0';
    if (!json_member(message, name, &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "%s is %s, not a string", name, json_type_name(value.type));
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(&value, &text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", name);
    monitor_copy_text(to, size, text.data, text.len);
    return 0;
}

/* 0 with the kind, or 1 for one that is not known. */
static int frame_kind(const struct json_value *message, enum monitor_kind *ret_kind, struct error *err)
{
    static const struct {
        const char *name;
        enum monitor_kind kind;
    } table[] = {
        {"ready", MONITOR_READY},   {"status", MONITOR_STATUS}, {"finished", MONITOR_FINISHED},
        {"failed", MONITOR_FAILED}, {"answer", MONITOR_ANSWER},
    };
    struct json_value value;
    if (!json_member(message, "message", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "message is %s, not a string", json_type_name(value.type));
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (json_equals(&value, table[i].name, strlen(table[i].name))) {
            *ret_kind = table[i].kind;
            return 0;
        }
    }
    return 1;
}

/* The id, and the count or a status with its text. */
static int frame_answer(const struct json_value *message, struct monitor_frame *frame, struct error *err)
{
    struct json_value value;
    int64_t status;
    if (!json_member(message, "id", &value) || !json_integer(&value, &frame->id))
        return error_set(err, ERROR_INVALID, "no valid id");
    if (json_member(message, "count", &value)) {
        if (!json_integer(&value, &frame->count) || frame->count < 0)
            return error_set(err, ERROR_INVALID, "no valid count");
        return 0;
    }
    if (!json_member(message, "status", &value) || !json_integer(&value, &status) || status < 400 ||
        status > 599)
        return error_set(err, ERROR_INVALID, "neither a count nor a valid status");
    frame->refusal = (unsigned)status;
    return frame_text(message, "error", frame->error, sizeof frame->error, err);
}

int monitor_parse(const char *packet, size_t len, struct monitor_frame *ret_frame, struct error *err)
{
    struct json_value message, value;
    struct monitor_frame frame = {.status = {.type = JSON_ABSENT}};
    if (json_scan(packet, len, &message, err) < 0)
        return -1;
    if (message.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "%s, not an object", json_type_name(message.type));
    int64_t generation;
    if (!json_member(&message, "generation", &value) || !json_integer(&value, &generation) ||
        generation < 0 || generation > UINT32_MAX)
        return error_set(err, ERROR_INVALID, "no valid generation");
    frame.generation = (uint32_t)generation;
    int result = frame_kind(&message, &frame.kind, err);
    if (result != 0)
        return result;

    switch (frame.kind) {
    case MONITOR_READY:
        break;
    case MONITOR_STATUS:
        if (!json_member(&message, "status", &frame.status) || frame.status.type != JSON_OBJECT)
            return error_set(err, ERROR_INVALID, "status is %s, not an object",
                             json_type_name(frame.status.type));
        break;
    case MONITOR_FINISHED:
        if (frame_text(&message, "trigger", frame.trigger, sizeof frame.trigger, err) < 0 ||
            frame_text(&message, "time", frame.time, sizeof frame.time, err) < 0)
            return -1;
        break;
    case MONITOR_FAILED:
        if (frame_text(&message, "reason", frame.reason, sizeof frame.reason, err) < 0 ||
            frame_text(&message, "error", frame.error, sizeof frame.error, err) < 0)
            return -1;
        break;
    case MONITOR_ANSWER:
        if (frame_answer(&message, &frame, err) < 0)
            return -1;
        break;
    }
    *ret_frame = frame;
    return 0;
}

static uint32_t get32(const _Atomic uint32_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void sample_source(const struct arena_source *from, struct monitor_source *to)
{
    monitor_copy_text(to->name, sizeof to->name, from->name, sizeof from->name);
    to->state = get32(&from->state);
    to->read = arena_get(&from->read);
    to->bytes = arena_get(&from->bytes);
    to->lag = arena_get(&from->lag);
    to->lost = arena_get(&from->lost);
    to->recreated = arena_get(&from->recreated);
    to->reconnects = arena_get(&from->reconnects);
    to->dead_letters = arena_get(&from->dead_letters);
    to->duplicates = arena_get(&from->duplicates);
}

static void sample_worker(const struct arena_worker *from, struct monitor_sample *to)
{
    to->state = get32(&from->state);
    to->dead_letters_full = get32(&from->dead_letters_full) != 0;
    to->epoch = arena_get(&from->epoch);
    to->commits = arena_get(&from->commits);
    to->commit_ns = arena_get(&from->commit_ns);
    to->commit_unix_ns = arena_get(&from->commit_unix_ns);
    to->documents = arena_get(&from->documents);
    to->commit_failures = arena_get(&from->commit_failures);
    to->in_flight = arena_get(&from->in_flight);
    to->internal_pending = arena_get(&from->internal_pending);
    to->triggers = arena_get(&from->triggers);
    to->triggers_broken = arena_get(&from->triggers_broken);
    to->reloads = arena_get(&from->reloads);
    to->dead_letters = arena_get(&from->dead_letters);
    to->dead_letter_bytes = arena_get(&from->dead_letter_bytes);
    to->finished = arena_get(&from->finished);
    to->committed_events = arena_get(&from->committed_events);
    to->started = arena_get(&from->executor_started);
    to->completed = arena_get(&from->executor_completed);
    to->retries = arena_get(&from->executor_retries);
    to->failed = arena_get(&from->executor_failed);
    to->pending = arena_get(&from->executor_pending);
}

void monitor_sample(const struct arena *arena, uint64_t now_ns, struct monitor_sample *ret_sample)
{
    struct monitor_sample *sample = ret_sample;
    sample->at_ns = now_ns;
    sample_worker(&arena->worker, sample);
    sample->evaluated = sample->events = sample->fired = 0;
    for (unsigned i = 0; i < ARENA_MAX_SHARDS; i++) {
        sample->evaluated += arena_get(&arena->shard[i].evaluated);
        sample->events += arena_get(&arena->shard[i].events);
        sample->fired += arena_get(&arena->shard[i].fired);
    }
    sample->read = sample->lag = sample->lost = sample->duplicates = 0;
    sample->n_sources = 0;
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++) {
        /* acquire: the name was written before. */
        if (atomic_load_explicit(&arena->source[i].used, memory_order_acquire) == 0)
            continue;
        struct monitor_source *source = &sample->source[sample->n_sources++];
        sample_source(&arena->source[i], source);
        sample->read += source->read;
        sample->lag += source->lag;
        sample->lost += source->lost;
        sample->duplicates += source->duplicates;
    }
}

double monitor_rate(uint64_t read_before, uint64_t at_before_ns, const struct monitor_sample *now)
{
    if (at_before_ns == 0 || now->at_ns <= at_before_ns || now->read <= read_before)
        return 0;
    return (double)(now->read - read_before) * (double)CLOCK_S / (double)(now->at_ns - at_before_ns);
}

int monitor_stalled(const struct arena *arena, uint64_t now_ns, int64_t limit_ns, uint64_t not_before_ns)
{
    if (limit_ns <= 0)
        return -1;
    for (int i = 0; i < ARENA_THREADS; i++) {
        const struct arena_thread *thread = &arena->thread[i];
        if (get32(&thread->busy) == 0)
            continue;
        uint64_t beat = arena_get(&thread->beat_ns);
        if (beat < not_before_ns)
            beat = not_before_ns;
        if (beat < now_ns && now_ns - beat >= (uint64_t)limit_ns)
            return i;
    }
    return -1;
}

const char *monitor_source_state_name(unsigned state)
{
    static const char *const names[] = {
        [ARENA_SOURCE_STARTING] = "starting",       [ARENA_SOURCE_READING] = "reading",
        [ARENA_SOURCE_UNAVAILABLE] = "unavailable", [ARENA_SOURCE_PAUSED] = "paused",
        [ARENA_SOURCE_FAILED] = "failed",           [ARENA_SOURCE_PUBLISH_ONLY] = "publish_only",
        [ARENA_SOURCE_STOPPED] = "stopped",
    };
    return state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}
