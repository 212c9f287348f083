#include "worker/action/docker.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"
#include "worker/condition/condition.h"
#include "worker/local/image.h"
#include "worker/document/document.h"
#include "worker/executor/invocation_policy.h"
#include "worker/local/permit.h"

#define SCRIPT_MAX (256u << 10)

/* A condition's or an action's document, as it was read. */
struct docker {
    struct document document; /* the values below borrow it */
    struct json_value image;
    struct json_value script; /* JSON_ABSENT: the function is in the image */
    struct invocation_policy policy;
};

/* --- loading --- */

static void unload(void *state)
{
    struct docker *d = state;
    if (!d)
        return;
    document_done(&d->document);
    free(d);
}

static int read_document(const struct json_value *document, struct docker *d, struct error *err)
{
    struct json_value name;
    BUFFER_AUTO image = BUFFER_INIT;
    if (!json_member(document, "image", &d->image) || d->image.type != JSON_STRING)
        return document_wrong("image", &d->image, "the name of an image", err);
    json_unescape(&d->image, &image);
    if (image_check(buffer_text(&image), image.len, err) < 0)
        return error_prefix(err, "image");
    d->script.type = JSON_ABSENT;
    json_member(document, "name", &name);
    if (json_equals(&name, "DOCKER", 6) &&
        (!json_member(document, "script", &d->script) || d->script.type != JSON_STRING))
        return document_wrong("script", &d->script, "a text", err);
    if (d->script.type == JSON_STRING && d->script.len > SCRIPT_MAX)
        return error_set(err, ERROR_INVALID, "script has %zu bytes, more than %u", d->script.len, SCRIPT_MAX);
    return invocation_policy_load(document, &d->policy, err);
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    struct docker *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (document_init(&d->document, action, err) < 0 || read_document(&d->document.root, d, err) < 0) {
        unload(d);
        return -1;
    }
    *ret_state = d;
    return 0;
}

/* --- asking --- */

static void raw_member(const char *name, const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_printf(out, ",\"%s\":", name);
    buffer_append(out, raw, len);
}

/* What all intents have; behind the first members. */
static int append_request(const struct docker *d, const struct firing *firing, struct buffer *out,
                          struct error *err)
{
    struct cloudevent event = *firing_event(firing);
    const char *identity = firing_identity(firing);
    if (!event.attribute[CE_SPECVERSION].len)
        event.attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    raw_member("image", &d->image, out);
    if (d->script.type == JSON_STRING)
        raw_member("script", &d->script, out);
    buffer_append_text(out, ",\"trigger\":");
    buffer_append_json(out, identity, strlen(identity));
    buffer_append_text(out, ",\"context\":");
    if (firing_context(firing, out, err) < 0)
        return -1;
    buffer_append_text(out, ",\"event\":");
    cloudevent_write(&event, out);
    buffer_append_char(out, ',');
    invocation_policy_write(&d->policy, out);
    buffer_append_char(out, '}');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

extern const struct action_type action_docker;

static int ask(const struct json_value *document, struct firing *firing, const char *key, struct error *err)
{
    struct docker d;
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_text(&body, "{\"evaluates\":true");
    if (read_document(document, &d, err) < 0 || append_request(&d, firing, &body, err) < 0)
        return -1;
    return firing_intend(firing, &action_docker, key, body.data, body.len, err);
}

/* Whose failure it is: as the context says, else the trigger. */
static int append_subject(const struct firing *firing, struct buffer *out, struct error *err)
{
    struct json_value context, subject;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO name = BUFFER_INIT;
    if (firing_settings(firing, &text, err) < 0 || json_scan(text.data, text.len, &context, err) < 0)
        return -1;
    if (json_member(&context, "subject", &subject) && subject.type == JSON_STRING)
        json_unescape(&subject, &name);
    else
        buffer_append_text(&name, firing_trigger(firing));
    buffer_append_text(out, "{\"subject\":");
    buffer_append_json(out, buffer_text(&name), name.len);
    return name.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    char key[ACTION_KEY_MAX];
    BUFFER_AUTO body = BUFFER_INIT;
    firing_key(firing, 0, key);
    if (append_subject(firing, &body, err) < 0)
        return -1;
    if (firing_is_last(firing))
        buffer_append_text(&body, ",\"last\":true");
    if (append_request(state, firing, &body, err) < 0 ||
        firing_intend(firing, &action_docker, key, body.data, body.len, err) < 0)
        return -1;
    if (!firing_is_last(firing))
        firing_await(firing, key);
    return 0;
}

/* --- registration --- */

static int permitted(const struct json_value *document, const struct permits *permits, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO image = BUFFER_INIT;
    json_member(document, "image", &value);
    json_unescape(&value, &image);
    return permit_image(permits->docker_images, buffer_text(&image), image.len, err);
}

static int accept(const struct json_value *document, struct error *err)
{
    struct docker d;
    return read_document(document, &d, err);
}

/* --- as conditions: without a state of their own --- */

static const char *const no_members[] = {NULL};

static int load_nothing(void *state, const struct json_value *context, struct error *err)
{
    (void)state;
    (void)context;
    (void)err;
    return 0;
}

static unsigned evaluate_never(void *state, const struct cloudevent *event)
{
    (void)state;
    (void)event;
    return 0;
}

static void store_nothing(const void *state, struct buffer *out)
{
    (void)state;
    (void)out;
}

static bool never_counted(const void *state)
{
    (void)state;
    return false;
}

static const char *const with_script[] = {"image", "script", INVOCATION_PARAMETERS, NULL};
static const char *const without_script[] = {"image", INVOCATION_PARAMETERS, NULL};

extern const struct action_type action_docker_image;
extern const struct condition_type condition_docker;
extern const struct condition_type condition_docker_image;

const struct action_type action_docker = {.name = "DOCKER",
                                          .load = load,
                                          .unload = unload,
                                          .fire = fire,
                                          .answers = true,
                                          .start = docker_start,
                                          .gave_up = docker_gave_up,
                                          .parameters = with_script,
                                          .permitted = permitted};
const struct action_type action_docker_image = {.name = "DOCKER_IMAGE",
                                                .load = load,
                                                .unload = unload,
                                                .fire = fire,
                                                .answers = true,
                                                .start = docker_start,
                                                .gave_up = docker_gave_up,
                                                .parameters = without_script,
                                                .permitted = permitted};
const struct condition_type condition_docker = {.name = "DOCKER",
                                                .members = no_members,
                                                .load = load_nothing,
                                                .evaluate = evaluate_never,
                                                .ask = ask,
                                                .store = store_nothing,
                                                .counted = never_counted,
                                                .parameters = with_script,
                                                .accept = accept,
                                                .permitted = permitted};
const struct condition_type condition_docker_image = {.name = "DOCKER_IMAGE",
                                                      .members = no_members,
                                                      .load = load_nothing,
                                                      .evaluate = evaluate_never,
                                                      .ask = ask,
                                                      .store = store_nothing,
                                                      .counted = never_counted,
                                                      .parameters = without_script,
                                                      .accept = accept,
                                                      .permitted = permitted};
