/* The conditions of state machines on any context, and then on any writes and events, a line each: nothing
 * breaks them, and what they store they load again, as it was. A line that begins with a brace is a write;
 * any other is an event, its parts between tabs: subject, key, triggerflowitem, data. */
#include "worker/condition/condition.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/states/item.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STATE_MAX 1024

struct held {
    const struct condition_type *type;
    _Alignas(16) unsigned char state[STATE_MAX];
};

static void require(bool condition)
{
    if (!condition)
        abort();
}

static int load(struct held *held, const char *text, size_t len)
{
    struct json_value context;
    struct error err = {0};
    memset(held->state, 0, sizeof held->state);
    if (json_scan(text, len, &context, NULL) < 0 || context.type != JSON_OBJECT)
        return -1;
    if (held->type->load(held->state, &context, &err) < 0) {
        require(err.message[0]);
        return -1;
    }
    return 0;
}

static void store(const struct held *held, struct buffer *out)
{
    buffer_append_char(out, '{');
    held->type->store(held->state, out);
    buffer_append_char(out, '}');
}

static void check_stored(const struct held *held)
{
    struct held again = {.type = held->type};
    BUFFER_AUTO first = BUFFER_INIT;
    BUFFER_AUTO second = BUFFER_INIT;
    store(held, &first);
    require(load(&again, first.data, first.len) == 0);
    store(&again, &second);
    require(first.len == second.len && !memcmp(first.data, second.data, first.len));
    again.type->unload(again.state);
}

static struct cloudevent_span part(const char **at, const char *end)
{
    const char *tab = memchr(*at, '\t', (size_t)(end - *at));
    const char *stop = tab ? tab : end;
    struct cloudevent_span span = {.text = *at, .len = (uint32_t)(stop - *at)};
    *at = tab ? tab + 1 : end;
    return span;
}

static void send(struct held *held, const char *at, const char *end)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_SUBJECT] = part(&at, end);
    event.attribute[CE_KEY] = part(&at, end);
    event.extension[0].name = (struct cloudevent_span){ITEM_ATTRIBUTE, strlen(ITEM_ATTRIBUTE)};
    event.extension[0].value = part(&at, end);
    event.n_extensions = event.extension[0].value.len > 0;
    event.attribute[CE_DATA] = (struct cloudevent_span){at, (uint32_t)(end - at)};
    event.data = CE_DATA_TEXT;
    unsigned outcome = held->type->evaluate(held->state, &event);
    require(!(outcome & CONDITION_REFUSES) || held->type->why_refused(held->state)[0]);
}

static void step(struct held *held, const char *line, size_t len)
{
    struct json_value write;
    if (len && *line == '{') {
        if (json_scan(line, len, &write, NULL) == 0)
            held->type->write(held->state, &write);
    } else if (utf8_valid(line, len)) { /* as sources let through */
        send(held, line, line + len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"AWS_ASF_CONDITION", "AWS_ASF_JOIN_STATEMACHINE"};
    const char *end = (const char *)data + size;
    if (size > 65536)
        return 0;
    for (size_t i = 0; i < 2; i++) {
        const char *line = (const char *)data;
        const char *feed = size ? memchr(line, '\n', size) : NULL;
        struct held held = {.type = condition_find(names[i], strlen(names[i]))};
        require(held.type && held.type->state_size <= STATE_MAX);
        if (load(&held, line, (size_t)((feed ? feed : end) - line)) < 0)
            continue;
        while (feed) {
            line = feed + 1;
            feed = memchr(line, '\n', (size_t)(end - line));
            step(&held, line, (size_t)((feed ? feed : end) - line));
        }
        check_stored(&held);
        held.type->unload(held.state);
    }
    return 0;
}
