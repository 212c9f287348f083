/* Any state (with payload templates and intrinsic functions) on any input, parted by a line feed; a first
 * byte other than a brace: the text is one expression. What comes out is JSON. */
#include "worker/states/state.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/states/evaluation.h"
#include "worker/states/expression.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check(int r, const struct json_value *value, const struct error *err)
{
    struct json_value again;
    size_t len;
    if (r < 0) {
        require(err->message[0]);
        return;
    }
    const char *raw = json_raw(value, &len);
    require(json_scan(raw, len, &again, NULL) == 0 && again.type == value->type);
}

static void try_expression(const char *text, size_t len, struct evaluation *evaluation)
{
    struct expression *expression;
    struct json_value value;
    struct error err = {0};
    if (expression_parse(text, len, &expression, &err) < 0) {
        require(err.message[0]);
        return;
    }
    check(expression_evaluate(expression, evaluation, &value, &err), &value, &err);
    expression_free(expression);
}

static void try_state(const char *text, size_t len, struct evaluation *evaluation)
{
    struct state *state;
    struct json_value document, value;
    struct json_value result = evaluation->input;
    struct error err = {0};
    if (json_scan(text, len, &document, NULL) < 0)
        return;
    if (state_load(&document, &state, &err) < 0) {
        require(err.message[0]);
        return;
    }
    check(state_pass(state, evaluation, &value, &err), &value, &err);
    check(state_leave(state, evaluation, &result, &value, &err), &value, &err);
    check(state_items(state, evaluation, &value, &err), &value, &err);
    check(state_item(state, evaluation, &result, &value, &err), &value, &err);
    state_free(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *feed = size ? memchr(text, '\n', size) : NULL;
    size_t len = feed ? (size_t)(feed - text) : size;
    struct evaluation evaluation;
    evaluation_init(&evaluation, 1);
    evaluation.steps = 1u << 18;
    if (!feed || json_scan(feed + 1, size - len - 1, &evaluation.input, NULL) == 0)
        (len && *text == '{' ? try_state : try_expression)(text, len, &evaluation);
    evaluation_done(&evaluation);
    return 0;
}
