#include "worker/states/answer.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/states/state.h"

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static uint64_t hash(const char *text, size_t len)
{
    return len ? XXH3_64bits(text, len) | 1 : 0;
}

static int hash_member(const struct json_value *entry, const char *name, uint64_t *ret_hash,
                       struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (json_member(entry, name, &value) && value.type == JSON_STRING)
        json_unescape(&value, &text);
    *ret_hash = hash(text.data, text.len);
    return text.failed ? no_memory(err) : 0;
}

/* Documents may have half of the bytes, who is waited for all of them. */
static bool has_room(const struct answers *answers, size_t len, bool document)
{
    return answers->bytes + len <= (document ? ANSWERS_MAX_BYTES : 2 * (size_t)ANSWERS_MAX_BYTES);
}

static int make_room(struct answers *answers, size_t len, struct error *err)
{
    if (!has_room(answers, len, false))
        return error_set(err, ERROR_LIMIT, "the tasks under way need more than %zu bytes",
                         2 * (size_t)ANSWERS_MAX_BYTES);
    if (answers->n < answers->cap)
        return 0;
    size_t cap = answers->cap ? answers->cap * 2 : 4;
    struct answer *grown = realloc(answers->entries, cap * sizeof *grown);
    if (!grown)
        return no_memory(err);
    answers->entries = grown;
    answers->cap = cap;
    return 0;
}

static int add(struct answers *answers, const struct json_value *entry, struct error *err)
{
    size_t len;
    const char *raw = json_raw(entry, &len);
    if (make_room(answers, len, err) < 0)
        return -1;
    struct answer answer = {.len = len};
    if (hash_member(entry, "task", &answer.task, err) < 0 ||
        hash_member(entry, "key", &answer.key, err) < 0 || hash_member(entry, "item", &answer.item, err) < 0)
        return -1;
    answer.text = strndup(raw, len);
    if (!answer.text)
        return no_memory(err);
    answers->entries[answers->n++] = answer;
    answers->bytes += len;
    return 0;
}

static bool is_entry(const struct json_value *entry)
{
    struct json_value task;
    return entry->type == JSON_OBJECT && json_member(entry, "task", &task) && task.type == JSON_STRING;
}

/* Without its documents. */
static int add_short(struct answers *answers, const struct json_value *entry, struct error *err)
{
    static const char *const kept[] = {"task", "key", "item"};
    struct json_value value;
    size_t len;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_text(&text, "{\"" ANSWER_OVER "\":true");
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (json_member(entry, kept[i], &value)) {
            const char *raw = json_raw(&value, &len);
            buffer_printf(&text, ",\"%s\":", kept[i]);
            buffer_append(&text, raw, len);
        }
    buffer_append_char(&text, '}');
    if (text.failed || json_scan(text.data, text.len, &value, err) < 0)
        return no_memory(err);
    return add(answers, &value, err);
}

int answers_add(struct answers *answers, const struct json_value *entry, struct error *err)
{
    size_t len;
    struct json_value input;
    if (!is_entry(entry))
        return error_set(err, ERROR_INVALID, "an answer without a task");
    json_raw(entry, &len);
    bool document = json_member(entry, "input", &input);
    return has_room(answers, len, document) || !document ? add(answers, entry, err)
                                                         : add_short(answers, entry, err);
}

bool answer_is_over(const struct json_value *entry, struct error *err)
{
    struct json_value over;
    if (!json_member(entry, ANSWER_OVER, &over) || over.type != JSON_TRUE)
        return false;
    error_set(err, ERROR_LIMIT,
              "States.DataLimitExceeded: when it was started, the inputs of the tasks under way needed more "
              "than %u bytes",
              ANSWERS_MAX_BYTES);
    return true;
}

int answers_load(struct answers *answers, const struct json_value *context, struct error *err)
{
    struct json_value array, name, entry;
    struct json_iter iter;
    if (!json_member(context, "answers", &array) || array.type == JSON_NULL)
        return 0;
    if (array.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "context.answers is %s, not an array",
                         json_type_name(array.type));
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &entry)) {
        if (!is_entry(&entry))
            return error_set(err, ERROR_INVALID, "context.answers has an element without a task");
        if (add(answers, &entry, err) < 0)
            return -1;
    }
    return 0;
}

void answers_done(struct answers *answers)
{
    for (size_t i = 0; i < answers->n; i++)
        free(answers->entries[i].text);
    free(answers->entries);
    *answers = (struct answers){0};
}

void answers_store(const struct answers *answers, struct buffer *out)
{
    if (!answers->n)
        return;
    buffer_append_text(out, "\"answers\":[");
    for (size_t i = 0; i < answers->n; i++) {
        if (i)
            buffer_append_char(out, ',');
        buffer_append(out, answers->entries[i].text, answers->entries[i].len);
    }
    buffer_append_char(out, ']');
}

static void take_out(struct answers *answers, size_t i, struct answer *ret_answer)
{
    *ret_answer = answers->entries[i];
    answers->bytes -= ret_answer->len;
    answers->n--;
    memmove(&answers->entries[i], &answers->entries[i + 1], (answers->n - i) * sizeof *answers->entries);
}

void answers_forget(struct answers *answers, uint64_t key)
{
    struct answer forgotten;
    for (size_t i = 0; i < answers->n && key; i++)
        if (answers->entries[i].key == key) {
            take_out(answers, i, &forgotten);
            free(forgotten.text);
            return;
        }
}

int answers_write(struct answers *answers, const struct json_value *write, struct error *err)
{
    struct json_value value;
    if (json_member(write, "awaits", &value) && is_entry(&value))
        return answers_add(answers, &value, err) < 0 ? -1 : 1;
    if (!json_member(write, "forget", &value) || value.type != JSON_STRING || value.escaped)
        return 0;
    answers_forget(answers, hash(value.text, value.len));
    return 1;
}

void answer_compose(const char *task, const char *key, const struct cloudevent_span *item,
                    const struct json_value *input, const struct json_value *state, struct buffer *out)
{
    size_t len;
    buffer_append_text(out, "{\"awaits\":{\"task\":");
    buffer_append_json(out, task, strlen(task));
    buffer_printf(out, ",\"key\":\"%s\"", key);
    if (item->len) {
        buffer_append_text(out, ",\"item\":");
        buffer_append_json(out, item->text, item->len);
    }
    if (input && state) {
        const char *raw = json_raw(input, &len);
        buffer_append_text(out, ",\"input\":");
        buffer_append(out, raw, len);
        buffer_append_text(out, ",\"state\":");
        state_write_shape(state, out);
    }
    buffer_append_text(out, "}}");
}

bool answers_take(struct answers *answers, const struct cloudevent_span *task,
                  const struct cloudevent_span *key, const struct cloudevent_span *item,
                  struct answer *ret_answer)
{
    uint64_t of_task = hash(task->text, task->len);
    uint64_t of_key = hash(key->text, key->len);
    uint64_t of_item = hash(item->text, item->len);
    size_t found = answers->n;
    bool exact = false;
    for (size_t i = 0; i < answers->n && !exact; i++) {
        const struct answer *a = &answers->entries[i];
        if (a->task != of_task)
            continue;
        exact = of_key ? a->key == of_key : of_item && a->item == of_item;
        if (exact || found == answers->n)
            found = i;
    }
    if (found == answers->n ||
        (of_key && !exact)) /* the key of another's: not an answer that is waited for */
        return false;
    take_out(answers, found, ret_answer);
    return true;
}

int answers_put_back(struct answers *answers, struct answer *answer, struct error *err)
{
    if (make_room(answers, answer->len, err) < 0)
        return -1;
    answers->entries[answers->n++] = *answer;
    answers->bytes += answer->len;
    *answer = (struct answer){0};
    return 0;
}
