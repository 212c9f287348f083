#include "worker/states/payload.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "worker/states/evaluation.h"
#include "worker/states/expression.h"

/* The template as a row of pieces: a literal text, then what an expression yields, and so on. */
struct piece {
    size_t literal_end; /* in the text */
    struct expression *expression;
    char *member; /* its name, for errors */
};

struct payload {
    struct buffer text; /* all literal text */
    struct piece *pieces;
    size_t n;
    size_t cap;
};

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

void payload_free(struct payload *payload)
{
    if (!payload)
        return;
    for (size_t i = 0; i < payload->n; i++) {
        expression_free(payload->pieces[i].expression);
        free(payload->pieces[i].member);
    }
    free(payload->pieces);
    buffer_done(&payload->text);
    free(payload);
}

static int add_piece(struct payload *t, const struct json_value *name, const struct json_value *value,
                     struct error *err)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 4;
        struct piece *grown = realloc(t->pieces, cap * sizeof *grown);
        if (!grown)
            return no_memory(err);
        t->pieces = grown;
        t->cap = cap;
    }
    struct piece *piece = &t->pieces[t->n];
    *piece = (struct piece){.literal_end = t->text.len};
    if (expression_load(value, &piece->expression, err) < 0)
        return error_prefix(err, "member %.*s", (int)(name->len < 80 ? name->len : 80), name->text);
    t->n++;
    piece->member = strndup(name->text, name->len < 80 ? name->len : 80);
    return piece->member ? 0 : no_memory(err);
}

static bool is_expression(const struct json_value *name)
{
    return name->len >= 2 && !memcmp(name->text + name->len - 2, ".$", 2);
}

/* The name as it will be, still escaped. */
static struct json_value final_name(const struct json_value *name)
{
    struct json_value final = *name;
    if (is_expression(name))
        final.len -= 2;
    return final;
}

/* Whether another member of the object will have the same name as an expression's. */
static int check_names(const struct json_value *object, struct error *err)
{
    struct json_iter iter, inner;
    struct json_value name, value, other;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value)) {
        struct json_value final = final_name(&name);
        if (!is_expression(&name))
            continue;
        json_iter_init(&inner, object);
        while (json_next(&inner, &other, &value)) {
            struct json_value same = final_name(&other);
            if (other.text != name.text && same.len == final.len && !memcmp(same.text, final.text, final.len))
                return error_set(err, ERROR_INVALID, "two members %.*s",
                                 (int)(final.len < 80 ? final.len : 80), final.text);
        }
    }
    return 0;
}

static int add_value(struct payload *t, const struct json_value *value, struct error *err);

static int add_object(struct payload *t, const struct json_value *object, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    bool first = true;
    if (check_names(object, err) < 0)
        return -1;
    buffer_append_char(&t->text, '{');
    json_iter_init(&iter, object);
    for (; json_next(&iter, &name, &value); first = false) {
        struct json_value final = final_name(&name);
        if (!first)
            buffer_append_char(&t->text, ',');
        buffer_append_char(&t->text, '"');
        buffer_append(&t->text, final.text, final.len);
        buffer_append_text(&t->text, "\":");
        if ((is_expression(&name) ? add_piece(t, &name, &value, err) : add_value(t, &value, err)) < 0)
            return -1;
    }
    buffer_append_char(&t->text, '}');
    return 0;
}

static int add_array(struct payload *t, const struct json_value *array, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    bool first = true;
    buffer_append_char(&t->text, '[');
    json_iter_init(&iter, array);
    for (; json_next(&iter, &name, &value); first = false) {
        if (!first)
            buffer_append_char(&t->text, ',');
        if (add_value(t, &value, err) < 0)
            return -1;
    }
    buffer_append_char(&t->text, ']');
    return 0;
}

static int add_value(struct payload *t, const struct json_value *value, struct error *err)
{
    size_t len;
    if (value->type == JSON_OBJECT)
        return add_object(t, value, err);
    if (value->type == JSON_ARRAY)
        return add_array(t, value, err);
    const char *raw = json_raw(value, &len);
    buffer_append(&t->text, raw, len);
    return 0;
}

int payload_load(const struct json_value *value, struct payload **ret_payload, struct error *err)
{
    struct payload *t = calloc(1, sizeof *t);
    if (!t)
        return no_memory(err);
    int r = add_value(t, value, err);
    if (r == 0 && t->text.failed)
        r = no_memory(err);
    if (r < 0) {
        payload_free(t);
        return -1;
    }
    *ret_payload = t;
    return 0;
}

int payload_evaluate(const struct payload *payload, struct evaluation *evaluation,
                     struct json_value *ret_value, struct error *err)
{
    BUFFER_AUTO out = BUFFER_INIT;
    size_t at = 0;
    for (size_t i = 0; i < payload->n; i++) {
        const struct piece *piece = &payload->pieces[i];
        struct json_value value;
        size_t len;
        buffer_append(&out, payload->text.data + at, piece->literal_end - at);
        at = piece->literal_end;
        if (expression_evaluate(piece->expression, evaluation, &value, err) < 0)
            return error_prefix(err, "member %s", piece->member);
        const char *raw = json_raw(&value, &len);
        if (json_work(&evaluation->steps, len, err) < 0)
            return error_prefix(err, "member %s", piece->member);
        buffer_append(&out, raw, len);
    }
    buffer_append(&out, payload->text.data + at, payload->text.len - at);
    return evaluation_keep(evaluation, &out, ret_value, err);
}
