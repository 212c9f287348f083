/* Failures of states: who tells of them, and what makes a Map or Parallel hear of those inside of it.
 *
 *     state fails ──▶ lambda.failure ──▶ AWS_ASF_CATCH of it ──▶ again (Retry), its Catch's Next,
 *          │                │ there is none                      or lambda.uncaught
 *          │ nobody         ▼                                        │
 *          ▼           the Map or Parallel around it ◀───────────────┘
 *     dead letter      (activated by lambda.uncaught of all states directly inside, without saying so in its
 *                       activation_events): closes its join, and fails itself
 *
 * A rule that cannot be evaluated fails the Choice, which has no trigger: each state that it may lead to
 * tells of it, under the same key, as lambda.uncaught.
 *
 * So a failure goes outwards until it is caught; where nobody takes it, it is a dead letter, condition_failed
 * or action_failed, that says what has failed there. Each failure of a run is told once: its event has an
 * idempotency key, made of the event that the state has failed on, and is emitted in the epoch of that event;
 * a crash before the commit repeats both, one after it neither. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/clock.h"
#include "worker/condition/asf.h"
#include "worker/condition/asf_internal.h"
#include "worker/shard/firing.h"
#include "worker/shard/trigger.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"
#include "worker/states/state.h"

/* --- telling --- */

static struct cloudevent_span span(const char *text, size_t len)
{
    return (struct cloudevent_span){.text = text, .len = (uint32_t)len};
}

static void make_key(const struct firing *firing, const char *type, const char *name,
                     char ret_key[ACTION_KEY_MAX])
{
    const struct cloudevent_span *id = &firing->event->attribute[CE_ID];
    const struct cloudevent_span *source = &firing->event->attribute[CE_SOURCE];
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, firing->creation, strlen(firing->creation) + 1);
    XXH3_128bits_update(&state, id->text ? id->text : "", id->len);
    XXH3_128bits_update(&state, "", 1);
    XXH3_128bits_update(&state, source->text ? source->text : "", source->len);
    XXH3_128bits_update(&state, "", 1);
    XXH3_128bits_update(&state, type, strlen(type) + 1);
    XXH3_128bits_update(&state, name, strlen(name));
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    snprintf(ret_key, ACTION_KEY_MAX, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

int asf_fail(struct firing *firing, const char *type, const char *name, const struct cloudevent_span *item,
             const struct failure *failure, const struct json_value *input, bool once)
{
    char key[ACTION_KEY_MAX];
    char time[CLOCK_ISO_MAX];
    struct cloudevent event;
    struct error err;
    size_t len;
    BUFFER_AUTO source = BUFFER_INIT;
    BUFFER_AUTO data = BUFFER_INIT;
    if (!firing_takes(firing, type, name))
        return 0;
    make_key(firing, type, once ? "" : name, key);
    buffer_printf(&source, "urn:triggerflow:%s:%s", firing_workspace(firing), firing_trigger(firing));
    buffer_append_char(&data, '{');
    failure_write(failure, &data);
    if (input) {
        const char *raw = json_raw(input, &len);
        buffer_append_text(&data, ",\"Input\":");
        buffer_append(&data, raw, len);
    }
    buffer_append_char(&data, '}');
    asf_must(&source);
    asf_must(&data);
    cloudevent_clear(&event);
    event.attribute[CE_SPECVERSION] = span("1.0", 3);
    event.attribute[CE_ID] = event.attribute[CE_KEY] = span(key, strlen(key));
    event.attribute[CE_SOURCE] = span(source.data, source.len);
    event.attribute[CE_TYPE] = span(type, strlen(type));
    event.attribute[CE_SUBJECT] = span(name, strlen(name));
    event.attribute[CE_TIME] = span(clock_iso(clock_unix_ns(), time), strlen(time));
    event.attribute[CE_DATACONTENTTYPE] = span("application/json", 16);
    event.attribute[CE_DATA] = span(data.data, data.len);
    event.data = CE_DATA_JSON;
    if (item->len) {
        event.extension[0].name = span(ITEM_ATTRIBUTE, strlen(ITEM_ATTRIBUTE));
        event.extension[0].value = *item;
        event.n_extensions = 1;
    }
    if (firing_emit(firing, &event, &err) == 0)
        return 1;
    if (err.code == ERROR_MEMORY)
        abort(); /* see asf_must() */
    return 0;    /* its input is nested too deep to be told: a dead letter says that the state has failed */
}

int asf_refused(void *state, struct firing *firing)
{
    struct asf *a = state;
    struct failure failure;
    struct json_value input;
    struct cloudevent_span item = span(a->item.data, a->item.len);
    if (!a->blamed)
        return 0;
    const char *name = a->culprit.len ? buffer_text(&a->culprit)
                       : a->subject   ? a->subject
                                      : firing->trigger->id;
    bool has_input = a->raw.len && json_scan(a->raw.data, a->raw.len, &input, NULL) == 0;
    failure_of_message(a->error.message, &failure);
    int taken = asf_fail(firing, a->by_rule ? FAILURE_UNCAUGHT : FAILURE_TYPE, name, &item, &failure,
                         has_input ? &input : NULL, a->by_rule);
    failure_done(&failure);
    if (taken)
        answers_forget(&a->answers, a->refused);
    return taken;
}

/* --- hearing --- */

struct adding {
    condition_add add;
    void *data;
};

static int add_state(void *data, const char *name, size_t len, struct error *err)
{
    struct adding *adding = data;
    return adding->add(adding->data, FAILURE_UNCAUGHT, name, len, err);
}

int asf_activations(const struct json_value *context, condition_add add, void *data, struct error *err)
{
    struct json_value state;
    struct adding adding = {add, data};
    return json_member(context, "State", &state) ? failure_inside(&state, add_state, &adding, err) : 0;
}
