/* Publishing for a source_bed.h. */
#include "tests/support/source_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"

#define AT_ONCE 500             /* events published in one call */
#define AT_ONCE_BYTES (4 << 20) /* and what they may hold together */

struct batch {
    struct source_event events[AT_ONCE];
    struct publication publications[AT_ONCE];
    struct source_text texts[AT_ONCE];
    struct buffer bodies[AT_ONCE];
};

static void write_body(const struct publication *p, struct buffer *out)
{
    buffer_printf(out, "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"urn:test\",\"type\":\"%s\"",
                  p->id, p->type);
    if (p->subject)
        buffer_printf(out, ",\"subject\":\"%s\"", p->subject);
    if (p->key)
        buffer_printf(out, ",\"triggerflowkey\":\"%s\"", p->key);
    if (p->data) {
        buffer_append_text(out, ",\"datacontenttype\":\"application/json\",\"data\":");
        buffer_append_text(out, p->data);
    }
    buffer_append_char(out, '}');
}

/* Makes up to n events; returns how many. */
static unsigned make_batch(struct batch *b, source_events make, unsigned first, unsigned n)
{
    size_t bytes = 0;
    unsigned i = 0;
    for (; i < n && i < AT_ONCE && bytes < AT_ONCE_BYTES; i++) {
        struct publication *p = &b->publications[i];
        *p = make(first + i, &b->texts[i]);
        buffer_reset(&b->bodies[i], AT_ONCE_BYTES);
        write_body(p, &b->bodies[i]);
        bytes += b->bodies[i].len;
        b->events[i] = (struct source_event){.id = p->id,
                                             .source = "urn:test",
                                             .type = p->type,
                                             .subject = p->subject,
                                             .key = p->key,
                                             .data = p->data,
                                             .data_len = p->data ? strlen(p->data) : 0,
                                             .body = b->bodies[i].data,
                                             .body_len = b->bodies[i].len};
    }
    return i;
}

/* An event that is published twice at once counts twice, unless the class knows it again. */
static void take(struct source_bed *bed, const struct publication *p)
{
    if (!bed->driver->deduplicates || strcmp(p->id, bed->last_id) != 0)
        reference_take(bed->reference, p);
    snprintf(bed->last_id, sizeof bed->last_id, "%s", p->id);
}

static int publish_some(struct source_bed *bed, struct batch *b, source_events make, unsigned first,
                        unsigned n, bool counted, unsigned *ret_n)
{
    *ret_n = make_batch(b, make, first, n);
    if (bed->driver->publish(&bed->queue, b->events, *ret_n) < 0)
        return -1;
    for (unsigned i = 0; counted && i < *ret_n; i++)
        take(bed, &b->publications[i]);
    return 0;
}

static struct batch *batch_new(void)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    for (unsigned i = 0; i < AT_ONCE; i++)
        b->bodies[i] = (struct buffer)BUFFER_INIT;
    return b;
}

static void batch_free(struct batch *b)
{
    for (unsigned i = 0; i < AT_ONCE; i++)
        buffer_done(&b->bodies[i]);
    free(b);
}

void source_bed_publish_range(struct source_bed *bed, source_events make, unsigned first, unsigned n,
                              bool counted)
{
    struct batch *b = batch_new();
    unsigned done;
    for (unsigned i = 0; i < n; i += done)
        if (publish_some(bed, b, make, first + i, n - i, counted, &done) < 0) {
            source_bed_show(bed);
            fail_msg("%s: publishing failed", bed->driver->name);
        }
    batch_free(b);
}

unsigned source_bed_publish(struct source_bed *bed, source_events make, unsigned n)
{
    unsigned percent = bed->driver->percent ? bed->driver->percent : 100;
    n = (n * percent + 99) / 100;
    source_bed_publish_range(bed, make, bed->next, n, true);
    bed->next += n;
    return n;
}

static void *publisher_main(void *data)
{
    struct source_bed *bed = data;
    struct batch *b = batch_new();
    for (unsigned at = 0; at < bed->total && !atomic_load(&bed->failed);) {
        unsigned done = 0;
        unsigned allowed = atomic_load(&bed->allowed);
        if (allowed <= at) {
            wait_moment();
            continue;
        }
        if (publish_some(bed, b, bed->make, bed->first + at, allowed - at, true, &done) < 0)
            atomic_store(&bed->failed, true);
        at += done;
    }
    batch_free(b);
    return NULL;
}

void source_bed_publisher(struct source_bed *bed, source_events make, unsigned n)
{
    bed->make = make;
    bed->first = bed->next;
    bed->total = n;
    bed->next += n;
    assert_int_equal(pthread_create(&bed->thread, NULL, publisher_main, bed), 0);
    bed->publishing = true;
}

void source_bed_allow(struct source_bed *bed, unsigned part, unsigned parts)
{
    atomic_store(&bed->allowed, (unsigned)((uint64_t)bed->total * part / parts));
}

void source_bed_publisher_join(struct source_bed *bed)
{
    source_bed_allow(bed, 1, 1);
    pthread_join(bed->thread, NULL);
    bed->publishing = false;
    if (atomic_load(&bed->failed))
        source_bed_show(bed);
    assert_false(atomic_load(&bed->failed));
}
