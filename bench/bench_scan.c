/* What it costs to turn a broker's bytes into an event: JSON (Kafka, RabbitMQ, HTTP) and separate fields
 * (Redis), against touching and copying the same bytes. One line a figure: the median of five rounds. */
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EVENTS = 1024, REPEATS = 400, ROUNDS = 5, FIELDS = 7, EVENT_ROOM = 1024 };

struct field {
    const char *name;
    const char *value;
    size_t name_len;
    size_t value_len;
};

struct sample {
    char json[EVENT_ROOM];
    size_t len;
    char text[EVENT_ROOM]; /* the values of fields, one after the other */
    struct field fields[FIELDS];
    _Alignas(8) char packed[EVENT_ROOM];
};

/* How an event is carried: the text of `data` as a JSON value, or as a string that holds JSON (as the
 * original client writes it). */
enum form { DATA_VALUE, DATA_STRING };

typedef size_t
operation(struct sample *sample); /* the result only keeps the work from being optimised away */

static struct cloudevent event;
static struct buffer scratch;

static void make_fields(struct sample *s, unsigned i)
{
    static const char *const names[FIELDS] = {"specversion", "id",   "source", "type",
                                              "subject",     "time", "data"};
    char values[FIELDS][256];
    snprintf(values[0], sizeof values[0], "1.0");
    snprintf(values[1], sizeof values[1], "%08x-%04x-4c3f-9f3e-%012x", i * 2654435761u, i & 0xffff,
             i * 40503u);
    snprintf(values[2], sizeof values[2], "urn:ibm:functions:montage:task-%u", i);
    snprintf(values[3], sizeof values[3], "event.triggerflow.termination.success");
    snprintf(values[4], sizeof values[4], "montage/task-%u", i % 200);
    snprintf(values[5], sizeof values[5], "2024-03-01T12:34:%02u.%06uZ", i % 60, i);
    snprintf(values[6], sizeof values[6], "{\"result\": %u, \"ok\": true, \"worker\": \"node-%u\"}", i * 17,
             i % 64);
    char *to = s->text;
    for (size_t f = 0; f < FIELDS; f++) {
        size_t n = strlen(values[f]);
        memcpy(to, values[f], n);
        s->fields[f] = (struct field){names[f], to, strlen(names[f]), n};
        to += n;
    }
}

static void make_json(struct sample *s, enum form form)
{
    struct buffer out = BUFFER_INIT;
    for (size_t f = 0; f < FIELDS; f++) {
        const struct field *field = &s->fields[f];
        buffer_append_text(&out, f ? ", " : "{");
        buffer_append_json(&out, field->name, field->name_len);
        buffer_append_text(&out, ": ");
        if (f == FIELDS - 1 && form == DATA_VALUE)
            buffer_append(&out, field->value, field->value_len);
        else
            buffer_append_json(&out, field->value, field->value_len);
    }
    buffer_append_text(&out, "}");
    s->len = out.len;
    memcpy(s->json, out.data, out.len);
    buffer_done(&out);
}

static size_t find_byte(struct sample *s)
{
    return memchr(s->json, 1, s->len) != NULL;
}

static size_t copy(struct sample *s)
{
    static char to[EVENT_ROOM];
    memcpy(to, s->json, s->len);
    __asm__ volatile("" : : "r"(to) : "memory");
    return (size_t)to[s->len / 2];
}

static size_t scan(struct sample *s)
{
    struct json_value value;
    if (json_scan(s->json, s->len, &value, NULL) < 0)
        abort();
    return value.len;
}

static size_t parse(struct sample *s)
{
    scratch.len = 0;
    if (cloudevent_parse(&event, s->json, s->len, &scratch, NULL) < 0 || cloudevent_check(&event, NULL) < 0)
        abort();
    return event.attribute[CE_DATA].len;
}

static size_t add(struct sample *s)
{
    cloudevent_clear(&event);
    for (size_t f = 0; f < FIELDS; f++) {
        const struct field *field = &s->fields[f];
        if (cloudevent_add(&event, field->name, field->name_len, field->value, field->value_len, NULL) < 0)
            abort();
    }
    if (cloudevent_check(&event, NULL) < 0)
        abort();
    return event.attribute[CE_DATA].len;
}

static size_t add_and_pack(struct sample *s)
{
    size_t n = add(s);
    cloudevent_pack(&event, s->packed);
    return n + cloudevent_packed_size(&event);
}

static size_t unpack(struct sample *s)
{
    cloudevent_unpack(s->packed, &event);
    return event.attribute[CE_DATA].len;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds an event. */
static double measure(operation *operate, struct sample *samples)
{
    static volatile size_t sink;
    double rounds[ROUNDS];
    for (size_t r = 0; r < ROUNDS; r++) {
        size_t sum = 0;
        double start = now();
        for (size_t n = 0; n < REPEATS; n++)
            for (size_t i = 0; i < EVENTS; i++)
                sum += operate(&samples[i]);
        rounds[r] = (now() - start) / (REPEATS * EVENTS);
        sink = sum;
    }
    (void)sink;
    qsort(rounds, ROUNDS, sizeof *rounds, compare);
    return rounds[ROUNDS / 2];
}

static void report(const char *what, operation *operate, struct sample *samples, double floor_ns)
{
    size_t bytes = 0;
    for (size_t i = 0; i < EVENTS; i++)
        bytes += samples[i].len;
    double ns = measure(operate, samples);
    printf("bench scan_envelope what=%s bytes=%zu ns_per_event=%.1f ns_per_byte=%.2f ratio_to_copy=%.1f\n",
           what, bytes / EVENTS, ns, ns * EVENTS / (double)bytes, ns / floor_ns);
}

int main(void)
{
    static struct sample samples[EVENTS];
    for (unsigned i = 0; i < EVENTS; i++) {
        make_fields(&samples[i], i);
        make_json(&samples[i], DATA_VALUE);
    }
    double floor_ns = measure(copy, samples);
    report("floor_memchr", find_byte, samples, floor_ns);
    report("floor_memcpy", copy, samples, floor_ns);
    report("json_scan", scan, samples, floor_ns);
    report("cloudevent_parse", parse, samples, floor_ns);
    report("cloudevent_add", add, samples, floor_ns);
    report("cloudevent_add_and_pack", add_and_pack, samples, floor_ns);
    report("cloudevent_unpack", unpack, samples, floor_ns);
    for (unsigned i = 0; i < EVENTS; i++)
        make_json(&samples[i], DATA_STRING);
    report("cloudevent_parse_escaped", parse, samples, floor_ns);
    buffer_done(&scratch);
    return 0;
}
