#include "worker/states/catch.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath.h"
#include "worker/states/failure.h"

#define ATTEMPTS_MAX 99999999
#define SECONDS_MAX 99999999

struct rule {
    struct json_value errors; /* ErrorEquals */
    struct json_value result_path;
    double interval, rate, longest; /* longest 0: no bound */
    int64_t attempts;
    bool jitter;
};

struct catch
{
    char *text; /* of the state, which all borrow */
    struct rule retriers[CATCH_MAX_RETRIERS];
    struct rule catchers[CATCH_MAX_CATCHERS];
    size_t n_retriers, n_catchers;
};

void catch_free(struct catch *catch)
{
    if (!catch)
        return;
    free(catch->text);
    free(catch);
}

static int wrong(const char *member, const struct json_value *value, const char *wanted, struct error *err)
{
    size_t len;
    if (value->type == JSON_ABSENT)
        return error_set(err, ERROR_INVALID, "%s is missing", member);
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "%s is %.*s, not %s", member, (int)(len < 80 ? len : 80), raw,
                     wanted);
}

static int load_number(const struct json_value *rule, const char *member, double least, double most,
                       double *ret_number, struct error *err)
{
    struct json_value value;
    if (!json_member(rule, member, &value))
        return 0;
    double number = value.type == JSON_NUMBER ? json_double(&value) : -1;
    if (!(number >= least && number <= most))
        return wrong(member, &value, "such a number", err);
    *ret_number = number;
    return 0;
}

static int load_errors(const struct json_value *rule, struct rule *r, struct error *err)
{
    struct json_value name, value;
    struct json_iter iter;
    size_t n = 0;
    if (!json_member(rule, "ErrorEquals", &r->errors) || r->errors.type != JSON_ARRAY)
        return wrong("ErrorEquals", &r->errors, "an array of names", err);
    json_iter_init(&iter, &r->errors);
    for (; json_next(&iter, &name, &value); n++)
        if (value.type != JSON_STRING)
            return wrong("ErrorEquals", &value, "a name", err);
    return n ? 0 : wrong("ErrorEquals", &r->errors, "an array of names", err);
}

static int load_retrier(const struct json_value *rule, struct rule *r, struct error *err)
{
    struct json_value value;
    double attempts = 3;
    r->interval = 1;
    r->rate = 2;
    if (load_errors(rule, r, err) < 0 ||
        load_number(rule, "IntervalSeconds", 0, SECONDS_MAX, &r->interval, err) < 0 ||
        load_number(rule, "BackoffRate", 1, SECONDS_MAX, &r->rate, err) < 0 ||
        load_number(rule, "MaxDelaySeconds", 0, SECONDS_MAX, &r->longest, err) < 0 ||
        load_number(rule, "MaxAttempts", 0, ATTEMPTS_MAX, &attempts, err) < 0)
        return -1;
    r->attempts = (int64_t)attempts;
    if (!json_member(rule, "JitterStrategy", &value))
        return 0;
    r->jitter = json_equals(&value, "FULL", 4);
    return r->jitter || json_equals(&value, "NONE", 4) ? 0
                                                       : wrong("JitterStrategy", &value, "FULL or NONE", err);
}

static int load_catcher(const struct json_value *rule, struct rule *r, struct error *err)
{
    struct json_value value;
    struct jsonpath *path;
    BUFFER_AUTO text = BUFFER_INIT;
    if (load_errors(rule, r, err) < 0)
        return -1;
    if (json_member(rule, "Assign", &value))
        return error_set(err, ERROR_INVALID, "Assign: variables are not supported");
    if (!json_member(rule, "ResultPath", &r->result_path) || r->result_path.type == JSON_NULL)
        return 0;
    if (r->result_path.type != JSON_STRING)
        return wrong("ResultPath", &r->result_path, "a path", err);
    json_unescape(&r->result_path, &text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (jsonpath_parse(buffer_text(&text), text.len, &path, err) < 0)
        return error_prefix(err, "ResultPath");
    bool reference = jsonpath_is_reference(path);
    jsonpath_free(path);
    return reference ? 0
                     : wrong("ResultPath", &r->result_path, "a reference path (names and indices only)", err);
}

static int load_rules(const struct json_value *state, const char *member,
                      int (*load)(const struct json_value *, struct rule *, struct error *),
                      struct rule *rules, size_t max, size_t *ret_n, struct error *err)
{
    struct json_value array, name, rule;
    struct json_iter iter;
    if (!json_member(state, member, &array))
        return 0;
    if (array.type != JSON_ARRAY)
        return wrong(member, &array, "an array", err);
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &rule)) {
        if (*ret_n == max)
            return error_set(err, ERROR_LIMIT, "%s has more than %zu elements", member, max);
        if (rule.type != JSON_OBJECT)
            return wrong(member, &rule, "an object", err);
        if (load(&rule, &rules[*ret_n], err) < 0)
            return error_prefix(err, "%s[%zu]", member, *ret_n);
        ++*ret_n;
    }
    return 0;
}

int catch_load(const struct json_value *state, struct catch **ret_catch, struct error *err)
{
    struct json_value root;
    size_t len;
    struct catch *c = calloc(1, sizeof *c);
    const char *raw = json_raw(state, &len);
    if (!c || !(c->text = strndup(raw, len))) {
        catch_free(c);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (json_scan(c->text, len, &root, err) < 0 ||
        load_rules(&root, "Retry", load_retrier, c->retriers, CATCH_MAX_RETRIERS, &c->n_retriers, err) < 0 ||
        load_rules(&root, "Catch", load_catcher, c->catchers, CATCH_MAX_CATCHERS, &c->n_catchers, err) < 0) {
        catch_free(c);
        return -1;
    }
    *ret_catch = c;
    return 0;
}

static bool is_error(const struct failure *failure, const char *name)
{
    return failure->has_error && failure->error.len == strlen(name) &&
           !memcmp(failure->error.data, name, failure->error.len);
}

static bool matches(const struct rule *rule, const struct failure *failure)
{
    struct json_value name, value;
    struct json_iter iter;
    if (is_error(failure, "States.Runtime"))
        return false;
    json_iter_init(&iter, &rule->errors);
    while (json_next(&iter, &name, &value))
        if (json_equals(&value, "States.ALL", 10) ||
            (json_equals(&value, "States.TaskFailed", 17) && !is_error(failure, "States.Timeout")) ||
            (failure->has_error &&
             json_equals(&value, failure->error.len ? failure->error.data : "", failure->error.len)))
            return true;
    return false;
}

static uint64_t delay_of(const struct rule *rule, uint32_t attempt, uint64_t random)
{
    double seconds = rule->interval * pow(rule->rate, attempt);
    if (rule->longest > 0 && seconds > rule->longest)
        seconds = rule->longest;
    if (!(seconds < SECONDS_MAX))
        seconds = SECONDS_MAX;
    if (rule->jitter)
        seconds *= (double)(random >> 11) / (double)(1ull << 53);
    return (uint64_t)(seconds * (double)CLOCK_S);
}

int catch_retry(const struct catch *catch, const struct failure *failure,
                uint32_t attempts[CATCH_MAX_RETRIERS], uint64_t random, uint64_t *ret_delay_ns)
{
    for (size_t i = 0; i < catch->n_retriers; i++) {
        const struct rule *rule = &catch->retriers[i];
        if (!matches(rule, failure))
            continue;
        if ((int64_t)attempts[i] >= rule->attempts)
            return -1;
        *ret_delay_ns = delay_of(rule, attempts[i]++, random);
        return (int)i;
    }
    return -1;
}

int catch_find(const struct catch *catch, const struct failure *failure)
{
    for (size_t i = 0; i < catch->n_catchers; i++)
        if (matches(&catch->catchers[i], failure))
            return (int)i;
    return -1;
}

void catch_result_path(const struct catch *catch, int catcher, struct json_value *ret_path)
{
    *ret_path = catch->catchers[catcher].result_path;
}

size_t catch_retriers(const struct catch *catch)
{
    return catch->n_retriers;
}
