/* AWS_ASF_CATCH, with the action of the same name: what is done about the failures of one state, its Retry
 * and its Catch (states/catch.h). The context has the state's Subject and State; activated by
 *
 *     lambda.failure of the state   holds, with the verdict that the action carries out
 *     lambda.success of the state   (of a Map: of its machine's end) never holds: what is kept for it goes
 *
 * A Task's firing writes {"attempt":{"task","key","item"?,"input"}} here, kept in `answers`: what its
 * function says by failing finds its input and its place in Maps there, by the key, or else as answers do
 * (states/answer.h). A failure of an invocation that is not under way (any more) is refused, or, if the
 * worker itself says so (a time-out, an invocation given up), means nothing.
 *
 * `tries`: how often each retrier has been used, by the state's place in Maps: [{"item","counts"}].
 * Executions of the state in the same place, at the same time, share them. Of a Task what fails after its
 * function has answered (ResultSelector, ResultPath) is not tried again: it would fail again. */
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/hash.h"
#include "worker/condition/asf.h"
#include "worker/condition/asf_internal.h"
#include "worker/shard/firing.h"
#include "worker/shard/trigger.h"
#include "worker/states/catch.h"
#include "worker/states/failure.h"
#include "worker/states/state.h"

#define TRIES_MAX 1000000

struct tries {
    uint32_t counts[CATCH_MAX_RETRIERS];
    size_t len;
    char item[];
};

struct catching {
    struct asf asf; /* the first: see asf_of() */
    struct catch *catch;
    struct hash_table tries; /* item -> struct tries */
    struct asf_verdict verdict;
    bool is_task;
};

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static void unload_catch(void *state)
{
    struct catching *c = state;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&c->tries, &cursor)))
        free(e->value);
    hash_done(&c->tries);
    catch_free(c->catch);
    failure_done(&c->verdict.failure);
    asf_unload(&c->asf);
    *c = (struct catching){0};
}

/* --- tries --- */

static struct tries *tries_of(struct catching *c, const char *item, size_t len, struct error *err)
{
    struct tries *t = hash_get(&c->tries, item, len);
    if (t)
        return t;
    if (c->tries.count >= TRIES_MAX) {
        error_set(err, ERROR_LIMIT, "more than %d executions of the state are tried again", TRIES_MAX);
        return NULL;
    }
    if (!(t = calloc(1, sizeof *t + len + 1)) ||
        hash_put(&c->tries, (memcpy(t->item, item, len), t->item), len, t, NULL) < 0) {
        free(t);
        out_of_memory(err);
        return NULL;
    }
    t->len = len;
    return t;
}

static bool forget_tries(struct catching *c)
{
    const struct buffer *item = &c->asf.item;
    struct tries *t = hash_get(&c->tries, item->len ? item->data : "", item->len);
    if (!t)
        return false;
    hash_remove(&c->tries, t->item, t->len);
    free(t);
    return true;
}

static int load_try(struct catching *c, const struct json_value *entry, struct error *err)
{
    struct json_value item, counts, name, value;
    struct json_iter iter;
    BUFFER_AUTO text = BUFFER_INIT;
    if (entry->type != JSON_OBJECT || !json_member(entry, "item", &item) || item.type != JSON_STRING ||
        !json_member(entry, "counts", &counts) || counts.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "context.tries: an element without item or counts");
    json_unescape(&item, &text);
    if (text.failed)
        return out_of_memory(err);
    struct tries *t = tries_of(c, buffer_text(&text), text.len, err);
    if (!t)
        return -1;
    json_iter_init(&iter, &counts);
    for (size_t i = 0; i < CATCH_MAX_RETRIERS && json_next(&iter, &name, &value); i++) {
        int64_t count;
        if (value.type != JSON_NUMBER || !json_integer(&value, &count) || count < 0 || count > UINT32_MAX)
            return error_set(err, ERROR_INVALID, "context.tries: counts has an element that is no count");
        t->counts[i] = (uint32_t)count;
    }
    return 0;
}

static int load_tries(struct catching *c, const struct json_value *context, struct error *err)
{
    struct json_value array, name, entry;
    struct json_iter iter;
    if (!json_member(context, "tries", &array) || array.type == JSON_NULL)
        return 0;
    if (array.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "context.tries is %s, not an array", json_type_name(array.type));
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &entry))
        if (load_try(c, &entry, err) < 0)
            return -1;
    return 0;
}

static void store_tries(const struct catching *c, struct buffer *out)
{
    size_t cursor = 0;
    struct hash_entry *e;
    const char *comma = "";
    if (!c->tries.count)
        return;
    buffer_append_text(out, "\"tries\":[");
    while ((e = hash_next(&c->tries, &cursor))) {
        const struct tries *t = e->value;
        buffer_printf(out, "%s{\"item\":", comma);
        buffer_append_json(out, t->item, t->len);
        buffer_append_text(out, ",\"counts\":[");
        for (size_t i = 0; i < catch_retriers(c->catch); i++)
            buffer_printf(out, "%s%u", i ? "," : "", t->counts[i]);
        buffer_append_text(out, "]}");
        comma = ",";
    }
    buffer_append_char(out, ']');
}

/* --- the context --- */

static int load_rules(struct catching *c, const struct json_value *context, struct error *err)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value state, type;
    if (!json_member(context, "State", &state) || state.type != JSON_OBJECT)
        state = none;
    c->is_task = json_member(&state, "Type", &type) && json_equals(&type, "Task", 4);
    return catch_load(&state, &c->catch, err) < 0 ? error_prefix(err, "context.State") : 0;
}

static int load(void *state, const struct json_value *context, struct error *err)
{
    struct catching *c = state;
    *c = (struct catching){0};
    hash_init(&c->tries);
    if (asf_load(&c->asf, context, err) == 0 && load_rules(c, context, err) == 0 &&
        load_tries(c, context, err) == 0)
        return 0;
    unload_catch(c);
    return -1;
}

static void store(const void *state, struct buffer *out)
{
    const struct catching *c = state;
    size_t start = out->len;
    answers_store(&c->asf.answers, out);
    if (out->len > start && c->tries.count)
        buffer_append_char(out, ',');
    store_tries(c, out);
}

static bool counted(const void *state)
{
    const struct catching *c = state;
    return c->asf.answers.n || c->tries.count;
}

/* --- evaluating --- */

/* Takes what is known of the invocation: its place, its input, its key. */
static bool take_attempt(struct catching *c, const struct cloudevent *event)
{
    struct asf *a = &c->asf;
    struct json_value entry, value;
    struct cloudevent_span item = {.text = a->item.data, .len = (uint32_t)a->item.len};
    if (!answers_take(&a->answers, &event->attribute[CE_SUBJECT], &event->attribute[CE_KEY], &item,
                      &a->answer) ||
        json_scan(a->answer.text, a->answer.len, &entry, NULL) < 0)
        return false;
    a->item.len = 0;
    if (json_member(&entry, "item", &value) && value.type == JSON_STRING)
        json_unescape(&value, &a->item);
    if (json_member(&entry, "key", &value) && value.len < sizeof c->verdict.attempt)
        memcpy(c->verdict.attempt, value.text, value.len);
    a->raw.len = 0;
    if (json_member(&entry, "input", &value)) {
        size_t len;
        const char *raw = json_raw(&value, &len);
        buffer_append(&a->raw, raw, len);
    }
    asf_must(&a->item);
    asf_must(&a->raw);
    answer_is_over(&entry, &a->error);
    return true;
}

static unsigned succeed(struct catching *c, const struct cloudevent *event)
{
    bool taken = take_attempt(c, event);
    bool tried = forget_tries(c);
    return taken || tried ? CONDITION_CHANGED : 0;
}

static unsigned judge(struct catching *c, const struct cloudevent *event, bool may_retry)
{
    struct asf *a = &c->asf;
    struct asf_verdict *v = &c->verdict;
    const struct cloudevent_span *id = &event->attribute[CE_ID];
    if (may_retry && catch_retriers(c->catch)) {
        struct tries *t = tries_of(c, buffer_text(&a->item), a->item.len, &a->error);
        if (!t)
            return asf_refuse(a, CONDITION_CHANGED);
        if (catch_retry(c->catch, &v->failure, t->counts, XXH3_64bits(id->text ? id->text : "", id->len),
                        &v->delay_ns) >= 0) {
            v->kind = ASF_AGAIN;
            return CONDITION_HOLDS | CONDITION_CHANGED;
        }
    }
    forget_tries(c);
    v->catcher = catch_find(c->catch, &v->failure);
    v->kind = v->catcher >= 0 ? ASF_CAUGHT : ASF_UNCAUGHT;
    if (v->catcher >= 0)
        catch_result_path(c->catch, v->catcher, &v->result_path);
    return CONDITION_HOLDS | CONDITION_CHANGED;
}

static bool is_success(const struct cloudevent *event)
{
    const struct cloudevent_span *type = &event->attribute[CE_TYPE];
    return type->len == 14 && !memcmp(type->text, "lambda.success", 14);
}

static unsigned evaluate(void *state, const struct cloudevent *event)
{
    static const char empty[] = "{}";
    struct catching *c = state;
    struct asf *a = &c->asf;
    struct json_value data, value;
    asf_begin(a, event);
    failure_done(&c->verdict.failure);
    c->verdict = (struct asf_verdict){0};
    if (is_success(event))
        return succeed(c, event);
    if (json_scan(a->data.data, a->data.len, &data, &a->error) < 0)
        return asf_refuse(a, 0);
    failure_of_data(&data, &c->verdict.failure);
    asf_must(&c->verdict.failure.error);
    asf_must(&c->verdict.failure.cause);
    bool taken = take_attempt(c, event);
    bool ours = failure_is_ours(event);
    if (taken && a->error.code != ERROR_NONE) /* its input is not known */
        return asf_refuse(a, CONDITION_CHANGED);
    if (!taken && ours && json_member(&data, "Attempt", &value))
        return 0;
    if (!taken && !ours) {
        error_set(&a->error, ERROR_INVALID, "no invocation of the state is under way: it has ended already");
        return asf_refuse(a, 0);
    }
    if (!taken && json_member(&data, "Input", &value)) {
        size_t len;
        const char *raw = json_raw(&value, &len);
        buffer_append(&a->raw, raw, len);
    }
    buffer_reset(&a->data, ASF_KEPT_BYTES);
    if (a->raw.len)
        buffer_append(&a->data, a->raw.data, a->raw.len);
    else
        buffer_append(&a->data, empty, 2);
    asf_must(&a->raw);
    asf_must(&a->data);
    return judge(c, event, taken || !c->is_task);
}

static unsigned write_attempt(void *state, const struct json_value *write)
{
    struct catching *c = state;
    struct json_value entry;
    if (!json_member(write, "attempt", &entry))
        return 0;
    return answers_add(&c->asf.answers, &entry, &c->asf.error) < 0 ? asf_refuse_write(&c->asf)
                                                                   : CONDITION_CHANGED;
}

static const char *const members[] = {"answers", "tries", NULL};

const struct condition_type condition_aws_asf_catch = {
    .name = "AWS_ASF_CATCH",
    .state_size = sizeof(struct catching),
    .members = members,
    .counts_keys = true,
    .catches = true,
    .load = load,
    .unload = unload_catch,
    .evaluate = evaluate,
    .write = write_attempt,
    .store = store,
    .counted = counted,
    .why_refused = asf_why_refused,
};

const struct asf_verdict *asf_firing_verdict(const struct firing *firing)
{
    const struct trigger *t = firing->trigger;
    return t->condition == &condition_aws_asf_catch
               ? &((const struct catching *)(const void *)t->state)->verdict
               : NULL;
}
