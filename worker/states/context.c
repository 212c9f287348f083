#include "worker/states/context.h"

#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "worker/states/item.h"

static void append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static void append_names(struct buffer *out, const char *member, const char *name)
{
    buffer_printf(out, "\"%s\":{\"Id\":", member);
    buffer_append_json(out, name, strlen(name));
    buffer_append_text(out, ",\"Name\":");
    buffer_append_json(out, name, strlen(name));
    buffer_append_text(out, "},");
}

static void append_state(const struct context *c, struct buffer *out)
{
    char now[CLOCK_ISO_MAX];
    buffer_append_text(out, "\"State\":{\"EnteredTime\":");
    if (c->time.len)
        buffer_append_json(out, c->time.text, c->time.len);
    else
        buffer_printf(out, "\"%s\"", clock_iso(clock_unix_ns(), now));
    buffer_append_text(out, ",\"Name\":");
    buffer_append_json(out, c->state, strlen(c->state));
    buffer_append_text(out, ",\"RetryCount\":0}");
}

void context_write(const void *data, struct buffer *out)
{
    const struct context *c = data;
    struct item item;
    int64_t index = c->index;
    buffer_append_char(out, '{');
    if (c->execution.type != JSON_ABSENT) {
        buffer_append_text(out, "\"Execution\":");
        append_raw(out, &c->execution);
        buffer_append_char(out, ',');
    } else if (c->workspace) {
        append_names(out, "Execution", c->workspace);
    }
    if (c->workspace)
        append_names(out, "StateMachine", c->workspace);
    append_state(c, out);
    if (index < 0 && item_innermost(c->item.text, c->item.len, &item))
        index = item.index;
    if (index >= 0) {
        buffer_printf(out, ",\"Map\":{\"Item\":{\"Index\":%lld", (long long)index);
        if (c->value) {
            buffer_append_text(out, ",\"Value\":");
            append_raw(out, c->value);
        }
        buffer_append_text(out, "}}");
    }
    buffer_append_char(out, '}');
}
