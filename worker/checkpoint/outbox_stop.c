/* The outbox at a graceful stop: of what has not ended, how much has really begun. */
#include "worker/checkpoint/outbox_internal.h"

#include <string.h>

#include "common/buffer.h"
#include "worker/checkpoint/changes.h"
#include "worker/checkpoint/outbox.h"
#include "worker/checkpoint/outbox_line.h"
#include "worker/executor/executor.h"
#include "worker/executor/fan_out.h"
#include "worker/executor/intent.h"
#include "worker/worker.h"

static void has_begun(struct line *line, const char *field)
{
    struct position p;
    if (position_read(field, strlen(field), &p) && position_compare(&p, &line->begun) > 0)
        line->begun = p;
}

static void see_left(void *data, struct intent *intent)
{
    struct line *line = outbox_line_of(data, intent);
    line->left = true;
    if (!intent->begun && !intent->uncertain)
        return;
    has_begun(line, intent->field);
    if (intent->fan_out)
        fan_out_has_begun(intent->fan_out, intent->index);
}

/* What an earlier life has left stays as it was. */
static void see_waiting(const struct outbox *o, struct line *line)
{
    for (size_t i = line->first; i < line->n; i++)
        if (outbox_is_uncertain(o, line, &line->waiting[i]) &&
            position_compare(&line->waiting[i], &line->begun) > 0)
            line->begun = line->waiting[i];
    if (line->starting && fan_out_is_uncertain(line->starting))
        has_begun(line, fan_out_field(line->starting));
}

static void announce_nothing(struct line *line, struct changes *out)
{
    BUFFER_AUTO name = BUFFER_INIT;
    buffer_append_text(&name, OUTBOX_STARTED);
    buffer_append(&name, line->trigger, line->len);
    out->text.failed |= name.failed;
    changes_put(out, STORAGE_CHECKPOINT, buffer_text(&name), name.len, OUTBOX_NOT_STARTED,
                strlen(OUTBOX_NOT_STARTED));
    line->announced.epoch = UINT64_MAX;
}

static void end_line(const struct outbox *o, struct line *line, struct changes *out)
{
    see_waiting(o, line);
    line->allowed = line->allowed_new = line->to_announce = 0;
    bool left = line->left || line->held || line->fresh || !line_is_clear(line);
    if (!left || line->begun.epoch)
        outbox_announce(line, &line->begun, out);
    else
        announce_nothing(line, out);
}

void outbox_collect_last(struct outbox *outbox, struct intent *const *lists, size_t n_lists,
                         struct changes *out)
{
    size_t cursor = 0;
    outbox->stopped = true;
    outbox_count_fresh(outbox, lists, n_lists);
    for (struct fan_out *f = outbox->fan_outs; f; f = fan_out_after(f))
        fan_out_begin_count(f);
    executor_each(outbox->worker->executor, see_left, outbox);
    for (struct hash_entry *e; (e = hash_next(&outbox->lines, &cursor));)
        end_line(outbox, e->value, out);
    for (struct fan_out *f = outbox->fan_outs; f; f = fan_out_after(f))
        fan_out_write(f, out);
}

bool outbox_is_left(const struct outbox *outbox)
{
    return outbox->lines.count || executor_pending(outbox->worker->executor);
}
