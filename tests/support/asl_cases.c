#include "tests/support/asl_cases.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/json_compare.h"

int asl_read_file(const char *file, struct buffer *out)
{
    const char *folder = getenv("TRIGGERFLOW_CONFORMANCE_DIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder && *folder ? folder : "../shared/conformance", file);
    FILE *f = fopen(path, "re");
    if (!f) {
        printf("skipped: %s is absent\n", path);
        return -1;
    }
    for (size_t n = 1; n > 0;) {
        char *to = buffer_reserve(out, 65536);
        assert(to);
        n = fread(to, 1, 65536, f);
        out->len += n;
    }
    fclose(f);
    return 0;
}

int asl_cases_read(struct asl_cases *cases, const char *file)
{
    struct buffer text = BUFFER_INIT;
    *cases = (struct asl_cases){0};
    if (asl_read_file(file, &text) < 0)
        return -1;
    cases->text = text.data;
    for (char *at = text.data, *end = at + text.len; at < end;) {
        char *feed = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((feed ? feed : end) - at);
        cases->values = realloc(cases->values, (cases->n + 1) * sizeof *cases->values);
        assert(cases->values);
        if (len && json_scan(at, len, &cases->values[cases->n], NULL) == 0)
            cases->n++;
        at += len + 1;
    }
    return 0;
}

void asl_cases_done(struct asl_cases *cases)
{
    free(cases->values);
    free(cases->text);
}

/* A member of this name, or a state of this type, at any depth; not inside what is data. */
static bool mentions(const struct json_value *value, const char *what)
{
    struct json_iter iter;
    struct json_value name, child;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &child)) {
        if (json_equals(&name, what, strlen(what)) ||
            (json_equals(&name, "Type", 4) && json_equals(&child, what, strlen(what))))
            return true;
        if (!json_equals(&name, "Result", 6) && !json_equals(&name, "Parameters", 10) &&
            (child.type == JSON_OBJECT || child.type == JSON_ARRAY) && mentions(&child, what))
            return true;
    }
    return false;
}

void asl_cases_leave_out(struct asl_cases *cases, const char *reason)
{
    for (unsigned i = 0; i < cases->n_reasons; i++)
        if (!strcmp(cases->reasons[i], reason)) {
            cases->left_out[i]++;
            return;
        }
    assert(cases->n_reasons < ASL_MAX_REASONS);
    cases->reasons[cases->n_reasons] = reason;
    cases->left_out[cases->n_reasons++] = 1;
}

static bool is_tagged(const struct json_value *test, const char *tag)
{
    struct json_value tags, name, value;
    struct json_iter iter;
    if (!json_member(test, "tags", &tags))
        return false;
    json_iter_init(&iter, &tags);
    while (json_next(&iter, &name, &value))
        if (json_equals(&value, tag, strlen(tag)))
            return true;
    return false;
}

bool asl_cases_covered(struct asl_cases *cases, size_t i, const char *const *beyond, const char *const *tags)
{
    struct json_value definition;
    for (; *tags; tags++)
        if (is_tagged(&cases->values[i], *tags)) {
            asl_cases_leave_out(cases, *tags);
            return false;
        }
    if (!json_member(&cases->values[i], "definition", &definition) &&
        !json_member(&cases->values[i], "state", &definition))
        return false;
    for (; *beyond; beyond++)
        if (mentions(&definition, *beyond)) {
            asl_cases_leave_out(cases, *beyond);
            return false;
        }
    return true;
}

void asl_cases_name(const struct asl_cases *cases, size_t i)
{
    struct json_value id;
    if (json_member(&cases->values[i], "id", &id))
        printf("  FAILED: %.*s\n", (int)id.len, id.text);
}

void asl_cases_report(const struct asl_cases *cases, const char *what, unsigned passed, unsigned failed)
{
    unsigned left_out = 0;
    for (unsigned i = 0; i < cases->n_reasons; i++)
        left_out += cases->left_out[i];
    printf("%s: %zu cases, %u covered, %u passed, %u left out", what, cases->n, passed + failed, passed,
           left_out);
    for (unsigned i = 0; i < cases->n_reasons; i++)
        printf("%s%s %u", i ? ", " : " (", cases->reasons[i], cases->left_out[i]);
    printf("%s\n", cases->n_reasons ? ")" : "");
}

static bool same(const struct json_value *a, const struct json_value *b)
{
    uint64_t steps = 1u << 30;
    bool is_same;
    return json_same(a, b, &steps, &is_same, NULL) == 0 && is_same;
}

static bool is_used(const struct asl_mocks *mocks, const struct json_value *mock)
{
    for (unsigned i = 0; i < mocks->n; i++)
        if (mocks->used[i] == mock->text)
            return true;
    return false;
}

bool asl_mocks_find(struct asl_mocks *mocks, const struct json_value *test, const struct json_value *state,
                    const struct json_value *input, struct json_value *ret_mock)
{
    struct json_value all, resource, list, mock, of, value, ignored;
    struct json_iter of_resources, of_list;
    bool found = false;
    bool exact = false;
    BUFFER_AUTO plain = BUFFER_INIT;
    json_unescape(state, &plain);
    if (!json_member(test, "task_mocks", &all))
        return false;
    json_iter_init(&of_resources, &all);
    while (!exact && json_next(&of_resources, &resource, &list)) {
        json_iter_init(&of_list, &list);
        while (!exact && json_next(&of_list, &ignored, &mock)) {
            if (!json_member(&mock, "state", &of) || !json_equals(&of, buffer_text(&plain), plain.len) ||
                is_used(mocks, &mock))
                continue;
            exact = json_member(&mock, "input", &value) && same(&value, input);
            if (!found || exact)
                *ret_mock = mock;
            found = true;
        }
    }
    if (found && mocks->n < ASL_MAX_MOCKS)
        mocks->used[mocks->n++] = ret_mock->text;
    return found;
}
