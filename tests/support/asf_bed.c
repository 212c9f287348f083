#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/asf_bed.h"

#include "common/json.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"

/* --- effects --- */

static struct buffer *logged(struct firing *firing)
{
    struct buffer *log = &((struct asf_bed *)(void *)firing)->log;
    if (log->len)
        buffer_append_char(log, '\n');
    return log;
}

static const char *word_of(const struct cloudevent *event)
{
    const struct cloudevent_span *type = &event->attribute[CE_TYPE];
    return type->len == 14 && !memcmp(type->text, FAILURE_TYPE, 14)       ? "fail"
           : type->len == 15 && !memcmp(type->text, FAILURE_UNCAUGHT, 15) ? "uncaught"
                                                                          : "emit";
}

static int emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    struct cloudevent_span item;
    struct item place;
    struct json_value data = {
        .text = event->attribute[CE_DATA].text, .len = event->attribute[CE_DATA].len, .type = JSON_OBJECT};
    if (json_is_deeper(&data, JSON_DATA_DEPTH))
        return error_set(err, ERROR_LIMIT, "too deep");
    item_of(event, &item);
    struct buffer *log = logged(firing);
    buffer_printf(log, "%s %.*s", word_of(event), (int)event->attribute[CE_SUBJECT].len,
                  event->attribute[CE_SUBJECT].text);
    if (item_innermost(item.text, item.len, &place))
        buffer_printf(log, "[%lld]", (long long)place.index);
    buffer_printf(log, " %.*s", (int)event->attribute[CE_DATA].len, event->attribute[CE_DATA].text);
    return 0;
}

static int write_context(struct firing *firing, const struct cloudevent *carrier, struct error *err)
{
    (void)err;
    buffer_printf(logged(firing), "write %.*s %.*s", (int)carrier->attribute[CE_SUBJECT].len,
                  carrier->attribute[CE_SUBJECT].text, (int)carrier->attribute[CE_DATA].len,
                  carrier->attribute[CE_DATA].text);
    return 0;
}

static int intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, const char *elements, size_t elements_len, struct error *err)
{
    (void)key;
    (void)elements;
    (void)elements_len;
    (void)err;
    buffer_printf(logged(firing), "intend %s %.*s", action->name, (int)body_len, body);
    return 0;
}

static void finish(struct firing *firing)
{
    buffer_append_text(logged(firing), "finish");
}

static unsigned takes(struct firing *firing, const struct cloudevent *event)
{
    (void)event;
    return ((struct asf_bed *)(void *)firing)->takes;
}

static int timer(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err)
{
    ((struct asf_bed *)(void *)firing)->timer_at = at;
    buffer_append_text(logged(firing), "later ");
    struct buffer *log = &((struct asf_bed *)(void *)firing)->log;
    size_t len = log->len;
    int r = emit(firing, event, err);
    memmove(log->data + len, log->data + len + 1, log->len - len - 1); /* the line feed */
    log->len--;
    return r;
}

static const struct firing_type into_log = {
    .emit = emit, .write = write_context, .intend = intend, .finish = finish, .takes = takes, .timer = timer};

/* --- the bed --- */

void asf_bed_begin(struct asf_bed *bed, const char *condition, const char *action, const char *context)
{
    BUFFER_AUTO document = BUFFER_INIT;
    *bed = (struct asf_bed){.firing = {.type = &into_log, .workspace = "ws", .creation = "1"}};
    buffer_printf(&document,
                  "{\"condition\":{\"name\":\"%s\"},\"action\":%s,\"context\":%s,\"activation_events\":[]}",
                  condition, action, context);
    if (trigger_new("T", 1, document.data, document.len, 1, &bed->trigger, &bed->error) < 0)
        fail_msg("%s", bed->error.message);
    bed->firing.trigger = bed->trigger;
}

void asf_bed_end(struct asf_bed *bed)
{
    trigger_free(bed->trigger);
    buffer_done(&bed->log);
}

static void fire(struct asf_bed *bed, const struct cloudevent *event)
{
    bed->firing.event = event;
    bed->firing.number++;
    if (bed->trigger->action->fire(bed->trigger->action_state, &bed->firing, &bed->error) < 0)
        buffer_printf(logged(&bed->firing), "failed %s", bed->error.message);
}

static struct cloudevent_span span(const char *text)
{
    return (struct cloudevent_span){.text = text, .len = text ? (uint32_t)strlen(text) : 0};
}

void asf_bed_send(struct asf_bed *bed, const char *subject, const char *data, const char *key,
                  const char *item)
{
    asf_bed_event(bed, NULL, subject, data, key, item);
}

static void evaluate(struct asf_bed *bed, const struct cloudevent *event)
{
    const struct condition_type *condition = bed->trigger->condition;
    unsigned outcome = condition->evaluate(bed->trigger->state, event);
    bed->firing.event = event;
    if ((outcome & CONDITION_REFUSES) &&
        (!condition->refused || condition->refused(bed->trigger->state, &bed->firing) <= 0))
        buffer_printf(logged(&bed->firing), "refused %s", condition->why_refused(bed->trigger->state));
    if (outcome & CONDITION_HOLDS)
        fire(bed, event);
}

void asf_bed_event(struct asf_bed *bed, const char *type, const char *subject, const char *data,
                   const char *key, const char *item)
{
    static unsigned n;
    static char id[24];
    struct cloudevent *event = &bed->event;
    buffer_reset(&bed->log, SIZE_MAX);
    cloudevent_clear(event);
    snprintf(id, sizeof id, "%u", ++n);
    event->attribute[CE_ID] = span(id);
    event->attribute[CE_TYPE] = span(type);
    event->attribute[CE_SOURCE] = span(bed->source);
    event->attribute[CE_SUBJECT] = span(subject);
    event->attribute[CE_KEY] = span(key);
    event->attribute[CE_DATA] = span(data);
    event->data = CE_DATA_JSON;
    if (item) {
        event->extension[0] =
            (struct cloudevent_extension){.name = span(ITEM_ATTRIBUTE), .value = span(item)};
        event->n_extensions = 1;
    }
    evaluate(bed, event);
}

void asf_bed_tell(struct asf_bed *bed, const char *write)
{
    struct json_value value;
    buffer_reset(&bed->log, SIZE_MAX);
    cloudevent_clear(&bed->event);
    assert_int_equal(json_scan(write, strlen(write), &value, NULL), 0);
    unsigned outcome = bed->trigger->condition->write(bed->trigger->state, &value);
    if (outcome & CONDITION_REFUSES)
        buffer_printf(logged(&bed->firing), "refused %s",
                      bed->trigger->condition->why_refused(bed->trigger->state));
    if (outcome & CONDITION_HOLDS)
        fire(bed, &bed->event);
}

void asf_bed_context(const struct asf_bed *bed, const char *expected)
{
    BUFFER_AUTO context = BUFFER_INIT;
    trigger_write_context(bed->trigger, &context);
    assert_string_equal(buffer_text(&context), expected);
}

void asf_bed_reload(struct asf_bed *bed)
{
    BUFFER_AUTO document = BUFFER_INIT;
    struct trigger *again;
    trigger_write(bed->trigger, "2020", &document);
    if (trigger_new("T", 1, document.data, document.len, 1, &again, &bed->error) < 0)
        fail_msg("%s", bed->error.message);
    trigger_free(bed->trigger);
    bed->trigger = bed->firing.trigger = again;
}

const char *asf_bed_place(const char *run, uint32_t index)
{
    static char text[4][64];
    static unsigned n;
    char *to = text[n++ % 4];
    snprintf(to, sizeof text[0], "%s-%016llx-%u", run, (unsigned long long)item_join("S", 1), index);
    return to;
}
