#include "worker/states/fail.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/states/expression.h"
#include "worker/states/failure.h"

/* A text, or what the path yields; neither: none. */
struct text {
    char *text;
    struct expression *expression;
};

struct fail {
    struct text error, cause;
};

void fail_free(struct fail *fail)
{
    if (!fail)
        return;
    free(fail->error.text);
    free(fail->cause.text);
    expression_free(fail->error.expression);
    expression_free(fail->cause.expression);
    free(fail);
}

static int load_text(const struct json_value *document, const char *member, const char *path,
                     struct text *ret_text, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (json_member(document, path, &value))
        return expression_load(&value, &ret_text->expression, err) < 0 ? error_prefix(err, "%s", path) : 0;
    if (!json_member(document, member, &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "%s is %s, not a string", member, json_type_name(value.type));
    json_unescape(&value, &text);
    ret_text->text = strndup(buffer_text(&text), text.len);
    return ret_text->text && !text.failed ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

int fail_load(const struct json_value *document, struct fail **ret_fail, struct error *err)
{
    struct fail *fail = calloc(1, sizeof *fail);
    if (!fail)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (load_text(document, "Error", "ErrorPath", &fail->error, err) < 0 ||
        load_text(document, "Cause", "CausePath", &fail->cause, err) < 0) {
        fail_free(fail);
        return -1;
    }
    *ret_fail = fail;
    return 0;
}

static int evaluate(const struct text *from, struct evaluation *evaluation, const char *member,
                    struct buffer *out, bool *ret_has, struct error *err)
{
    struct json_value value;
    *ret_has = from->text || from->expression;
    if (from->text)
        buffer_append_text(out, from->text);
    if (!from->expression)
        return 0;
    int r = expression_evaluate(from->expression, evaluation, &value, err);
    if (r == 0 && value.type != JSON_STRING)
        r = error_set(err, ERROR_INVALID, "it leads to %s, not to a string", json_type_name(value.type));
    if (r < 0)
        return error_prefix(err, "%s", member);
    json_unescape(&value, out);
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int fail_evaluate(const struct fail *fail, struct evaluation *evaluation, struct failure *ret_failure,
                  struct error *err)
{
    struct failure failure = {0};
    if (evaluate(&fail->error, evaluation, "ErrorPath", &failure.error, &failure.has_error, err) < 0 ||
        evaluate(&fail->cause, evaluation, "CausePath", &failure.cause, &failure.has_cause, err) < 0) {
        failure_done(&failure);
        return -1;
    }
    *ret_failure = failure;
    return 0;
}
