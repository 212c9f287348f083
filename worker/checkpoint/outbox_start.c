/* Starting what the outbox may let go: fresh intents, and those that are read back from storage. */
#include "worker/checkpoint/outbox_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/outbox.h"
#include "worker/checkpoint/outbox_line.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/executor/fan_out.h"
#include "worker/executor/intent.h"
#include "worker/worker.h"

#define REFILL_AT_ONCE 500

/* Intents on their way to the executor. */
struct start {
    struct outbox *outbox;
    struct intent *list;
    struct intent **end;
    uint64_t free_places;
};

/* --- fan-outs --- */

static const char *progress_of(const struct outbox *o, const char *field)
{
    for (size_t i = 0; i < o->progress.n; i++)
        if (!strcmp(o->progress.items[i].key, field))
            return o->progress.items[i].value;
    return NULL;
}

/* Begins with one, which comes from this life or from storage. Takes the intent. */
static void begin_fan_out(struct outbox *o, struct intent *intent)
{
    struct error err;
    struct fan_out *f;
    struct line *line = intent->line;
    size_t len = intent->len;
    const char *progress = intent->replayed ? progress_of(o, intent->field) : NULL;
    if (fan_out_new(intent, o->worker->creation, progress, &f, &err) < 0) {
        if (err.code == ERROR_MEMORY)
            abort(); /* would be forgotten until the next start */
        log_error("outbox", LOG_STR("error", err.message));
        intent_free(intent);
        return;
    }
    fan_out_link(f, &o->fan_outs);
    line->starting = f;
    line->starting_bytes = len;
    o->fan_out_bytes += len;
    crash_point("fan_out_begun");
}

static void add(struct start *start, struct intent *intent)
{
    intent->next = NULL;
    *start->end = intent;
    start->end = &intent->next;
}

static void take_place(struct start *start, struct line *line)
{
    line->held++;
    start->free_places--;
}

/* Adds elements to the list while there is room. */
static void start_elements(struct start *start, struct line *line)
{
    struct error err;
    struct intent *element;
    while (line_has_room(line, start->free_places) && (element = fan_out_next(line->starting, &err))) {
        element->line = line;
        take_place(start, line);
        add(start, element);
    }
    if (fan_out_exhausted(line->starting))
        outbox_fan_out_started(start->outbox, line);
}

/* --- fresh ones --- */

static struct start start_begin(struct outbox *o)
{
    return (struct start){.outbox = o, .free_places = outbox_free_places(o)};
}

static void start_end(struct start *start)
{
    executor_submit(start->outbox->worker->executor, start->list);
}

/* Takes an intent that is next in its line. It has a place, unless it is to have elements. */
static void start_intent(struct start *start, struct intent *intent)
{
    struct line *line = intent->line;
    if (!intent->fans_out) {
        add(start, intent);
        return;
    }
    begin_fan_out(start->outbox, intent);
    if (line->starting)
        start_elements(start, line);
}

static bool may_start(const struct start *start, const struct intent *intent)
{
    const struct line *line = intent->line;
    return line_is_clear(line) && line->allowed_new && line_has_room(line, start->free_places) &&
           (!intent->fans_out || start->outbox->fan_out_bytes < OUTBOX_FAN_OUT_BYTES);
}

/* One that has just been committed. Takes it. */
static void start_fresh(struct start *start, struct intent *intent)
{
    struct line *line = intent->line;
    struct position p;
    bool now = may_start(start, intent);
    line->fresh--;
    if (now) {
        if (!intent->fans_out)
            take_place(start, line);
        start_intent(start, intent);
    } else {
        if (!position_read(intent->field, strlen(intent->field), &p))
            abort(); /* it is we who name them */
        line_wait(line, &p);
        line->allowed += line->allowed_new != 0;
        intent_free(intent);
    }
    line->allowed_new -= line->allowed_new != 0;
}

void outbox_start(struct outbox *outbox, struct intent *list)
{
    struct start start = start_begin(outbox);
    start.end = &start.list;
    while (list) {
        struct intent *intent = list;
        list = intent->next;
        start_fresh(&start, intent);
    }
    start_end(&start);
}

/* --- reading back --- */

struct refill {
    const struct outbox *outbox;
    char fields[REFILL_AT_ONCE][INTENT_FIELD_MAX];
    struct line *lines[REFILL_AT_ONCE];
    bool found[REFILL_AT_ONCE];
    size_t n;
    size_t seen;
    struct intent *list;
    struct intent **end;
};

static int see_intent(void *data, const char *field, size_t field_len, const char *document, size_t len)
{
    struct refill *refill = data;
    struct intent *intent;
    struct position p;
    struct error err;
    while (refill->seen < refill->n && (strlen(refill->fields[refill->seen]) != field_len ||
                                        memcmp(refill->fields[refill->seen], field, field_len) != 0))
        refill->seen++;
    if (refill->seen == refill->n || !position_read(field, field_len, &p))
        return 0;
    if (intent_load(field, field_len, document, len, &intent, &err) < 0) {
        /* Not something that any version of ours has written: it stays where it is, and is told of. */
        log_error("outbox", LOG_STR("error", err.message));
        return err.code == ERROR_MEMORY ? -1 : 0;
    }
    struct line *line = refill->lines[refill->seen];
    refill->found[refill->seen++] = true;
    intent->line = line;
    intent->replayed = true;
    intent->uncertain = outbox_is_uncertain(refill->outbox, line, &p);
    *refill->end = intent;
    refill->end = &intent->next;
    return 0;
}

/* Chooses what to read of one line, as there is room, and takes the places. Whether that is all for now: a
 * fan-out is read alone, for it may be large. */
static bool plan_line(struct start *start, struct refill *refill, struct line *line)
{
    const struct position *p;
    while (refill->n < REFILL_AT_ONCE && (p = outbox_next(start->outbox, line, start->free_places))) {
        if (p->fans_out && refill->n)
            return true;
        position_write(p, refill->fields[refill->n]);
        refill->lines[refill->n++] = line;
        line->planned++;
        if (p->fans_out)
            return true;
        take_place(start, line);
    }
    return refill->n == REFILL_AT_ONCE;
}

/* Goes round from where the last one has ended. */
static void plan(struct start *start, struct refill *refill)
{
    struct outbox *o = start->outbox;
    struct line *last = o->last;
    bool full = false;
    refill->n = refill->seen = 0;
    refill->end = &refill->list;
    memset(refill->found, 0, sizeof refill->found);
    for (struct line *line = o->first; line && !full;) {
        struct line *next = line == last ? NULL : line->after;
        full = plan_line(start, refill, line);
        outbox_unlink(o, line);
        outbox_look_after(o, line);
        line = next;
    }
}

/* What was planned is read, or was not and waits on. */
static void conclude(struct start *start, const struct refill *refill, bool was_read)
{
    for (size_t i = 0; i < refill->n; i++) {
        struct line *line = refill->lines[i];
        bool fans_out = intent_field_fans_out(refill->fields[i]);
        line->planned--;
        line->first += was_read;
        line->allowed -= was_read;
        if (fans_out || (was_read && refill->found[i]))
            continue;
        line->held--;
        start->free_places++;
    }
}

static int read_back(struct start *start, struct storage *storage, struct refill *refill)
{
    const char *keys[REFILL_AT_ONCE];
    struct error err;
    for (size_t i = 0; i < refill->n; i++)
        keys[i] = refill->fields[i];
    int r = storage->type->get(storage, start->outbox->worker->workspace, STORAGE_OUTBOX, keys, refill->n,
                               see_intent, refill, &err);
    conclude(start, refill, r == 0);
    if (r == 0)
        return 0;
    log_warn("outbox", LOG_STR("error", err.message));
    intent_free_list(refill->list);
    refill->list = NULL;
    return -1;
}

static void refill_lines(struct outbox *outbox, struct storage *storage)
{
    struct refill refill = {.outbox = outbox};
    do {
        struct start start = start_begin(outbox);
        start.end = &start.list;
        for (struct line *line = outbox->first; line; line = line->after)
            if (line->starting)
                start_elements(&start, line);
        plan(&start, &refill);
        if (refill.n && read_back(&start, storage, &refill) < 0)
            refill.n = 0;
        while (refill.list) {
            struct intent *intent = refill.list;
            refill.list = intent->next;
            start_intent(&start, intent);
        }
        start_end(&start);
    } while (refill.n);
}

void outbox_refill(struct outbox *outbox, struct storage *storage)
{
    if (!outbox->first || outbox->stopped)
        return;
    refill_lines(outbox, storage);
    outbox_leave_lines(outbox);
}
