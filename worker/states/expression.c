#include "worker/states/expression.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/states/evaluation.h"
#include "worker/states/intrinsic.h"
#include "worker/states/path.h"

#define MAX_NESTING 10 /* the service's quota */
#define EXPRESSION_MAX 65536

struct expression {
    struct path *path;                 /* or */
    const struct intrinsic *intrinsic; /* with */
    struct expression **arguments;
    unsigned n;
    struct json_value literal; /* else */
    char *text;                /* that the literal borrows */
};

struct parser {
    const char *start;
    const char *at;
    const char *end;
    unsigned nesting;
    struct error *err;
};

static int wrong(const struct parser *p, const char *what)
{
    size_t n = (size_t)(p->end - p->start);
    return error_set(p->err, ERROR_INVALID, "%.*s%s: %s at character %zu", (int)(n < 100 ? n : 100), p->start,
                     n < 100 ? "" : "...", what, (size_t)(p->at - p->start) + 1);
}

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static bool next_is(const struct parser *p, char c)
{
    return p->at < p->end && *p->at == c;
}

void expression_free(struct expression *expression)
{
    if (!expression)
        return;
    for (unsigned i = 0; i < expression->n; i++)
        expression_free(expression->arguments[i]);
    free(expression->arguments);
    path_free(expression->path);
    free(expression->text);
    free(expression);
}

/* Takes the literal's JSON text. */
static int set_literal(struct parser *p, struct expression *e, struct buffer *json)
{
    if (json->failed || !buffer_reserve(json, 1))
        return no_memory(p->err);
    e->text = json->data;
    size_t len = json->len;
    *json = (struct buffer)BUFFER_INIT;
    if (json_scan(e->text, len, &e->literal, NULL) < 0)
        return wrong(p, "neither a path, a call, a text, a number nor true, false or null");
    return 0;
}

/* A text in single quotes. \' \\ \{ \} stand for the character; for a template (of States.Format) only \'
 * does here, since the function itself reads the others. */
static int read_text(struct parser *p, struct expression *e, bool template)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO json = BUFFER_INIT;
    for (p->at++; !next_is(p, '\''); p->at++) {
        if (p->at == p->end)
            return wrong(p, "a quote is not closed");
        if (*p->at == '\\') {
            if (p->at + 1 == p->end || !strchr("'\\{}", p->at[1]) || !p->at[1])
                return wrong(p, "an unknown escape");
            if (template && p->at[1] != '\'')
                buffer_append_char(&text, '\\');
            p->at++;
        }
        buffer_append_char(&text, *p->at);
    }
    p->at++;
    if (!utf8_valid(text.data, text.len))
        return wrong(p, "a text is not UTF-8");
    buffer_append_json(&json, text.len ? text.data : "", text.len);
    return text.failed ? no_memory(p->err) : set_literal(p, e, &json);
}

/* The end of a path: a comma, a parenthesis or a space outside of its own brackets and quotes. */
static const char *path_end(const struct parser *p)
{
    char quote = 0;
    unsigned depth = 0;
    const char *at = p->at;
    for (; at < p->end; at++) {
        if (quote) {
            if (*at == '\\' && at + 1 < p->end)
                at++;
            else if (*at == quote)
                quote = 0;
        } else if (depth && (*at == '\'' || *at == '"')) {
            quote = *at;
        } else if (*at == '[' || *at == '(') {
            depth++;
        } else if (depth && (*at == ']' || *at == ')')) {
            depth--;
        } else if (!depth && (*at == ',' || *at == ')' || *at == ' ')) {
            break;
        }
    }
    return at;
}

static int read_expression(struct parser *p, bool template, struct expression **ret_expression);

static int read_arguments(struct parser *p, struct expression *e)
{
    p->at++;
    e->arguments = calloc(INTRINSIC_MAX_ARGUMENTS, sizeof(struct expression *));
    if (!e->arguments)
        return no_memory(p->err);
    skip_space(p);
    while (!next_is(p, ')')) {
        if (e->n == INTRINSIC_MAX_ARGUMENTS)
            return wrong(p, "too many arguments");
        if (e->n && !next_is(p, ','))
            return wrong(p, "a comma or ) is missing");
        p->at += e->n > 0;
        skip_space(p);
        bool template = e->n == 0 && !strcmp(e->intrinsic->name, "States.Format");
        if (read_expression(p, template, &e->arguments[e->n]) < 0)
            return -1;
        e->n++;
        skip_space(p);
    }
    p->at++;
    if (e->n < e->intrinsic->min_arguments || e->n > e->intrinsic->max_arguments)
        return wrong(p, "the wrong number of arguments");
    return 0;
}

static int read_call(struct parser *p, struct expression *e)
{
    const char *start = p->at;
    while (p->at < p->end && *p->at != '(' && *p->at != ' ')
        p->at++;
    e->intrinsic = intrinsic_find(start, (size_t)(p->at - start));
    if (!e->intrinsic) {
        p->at = start;
        return wrong(p, "an unknown function");
    }
    skip_space(p);
    if (!next_is(p, '('))
        return wrong(p, "( is missing");
    if (++p->nesting > MAX_NESTING)
        return wrong(p, "calls are nested too deeply");
    if (read_arguments(p, e) < 0)
        return -1;
    p->nesting--;
    return 0;
}

/* A number, true, false or null. */
static int read_word(struct parser *p, struct expression *e)
{
    BUFFER_AUTO json = BUFFER_INIT;
    const char *start = p->at;
    while (p->at < p->end && !strchr(",) \t\n\r\"[{", *p->at))
        p->at++;
    buffer_append(&json, start, (size_t)(p->at - start));
    return set_literal(p, e, &json);
}

static int read_into(struct parser *p, bool template, struct expression *e)
{
    if (next_is(p, '\''))
        return read_text(p, e, template);
    if (next_is(p, '$')) {
        const char *end = path_end(p);
        int r = path_parse(p->at, (size_t)(end - p->at), &e->path, p->err);
        p->at = end;
        return r;
    }
    if (p->end - p->at > 7 && !memcmp(p->at, "States.", 7))
        return read_call(p, e);
    return read_word(p, e);
}

static int read_expression(struct parser *p, bool template, struct expression **ret_expression)
{
    struct expression *e = calloc(1, sizeof *e);
    if (!e)
        return no_memory(p->err);
    if (read_into(p, template, e) < 0) {
        expression_free(e);
        return -1;
    }
    *ret_expression = e;
    return 0;
}

int expression_parse(const char *text, size_t len, struct expression **ret_expression, struct error *err)
{
    struct parser p = {.start = text, .at = text, .end = text + len, .err = err};
    struct expression *e = NULL;
    if (len > EXPRESSION_MAX)
        return error_set(err, ERROR_INVALID, "an expression of %zu bytes is longer than %d", len,
                         EXPRESSION_MAX);
    if (next_is(&p, '$')) {
        e = calloc(1, sizeof *e);
        if (!e)
            return no_memory(err);
        if (path_parse(text, len, &e->path, err) < 0) {
            expression_free(e);
            return -1;
        }
        *ret_expression = e;
        return 0;
    }
    if (len < 7 || memcmp(text, "States.", 7) != 0)
        return wrong(&p, "neither a path nor a call of an intrinsic function");
    if (read_expression(&p, false, &e) < 0)
        return -1;
    skip_space(&p);
    if (p.at != p.end) {
        expression_free(e);
        return wrong(&p, "text after the call");
    }
    *ret_expression = e;
    return 0;
}

int expression_load(const struct json_value *string, struct expression **ret_expression, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (string->type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "is %s, not a string", json_type_name(string->type));
    json_unescape(string, &text);
    if (text.failed)
        return no_memory(err);
    return expression_parse(buffer_text(&text), text.len, ret_expression, err);
}

int expression_evaluate(const struct expression *expression, struct evaluation *evaluation,
                        struct json_value *ret_value, struct error *err)
{
    if (expression->path)
        return path_read(expression->path, evaluation, ret_value, err);
    if (!expression->intrinsic) {
        *ret_value = expression->literal;
        return 0;
    }
    struct json_value arguments[INTRINSIC_MAX_ARGUMENTS];
    for (unsigned i = 0; i < expression->n; i++)
        if (expression_evaluate(expression->arguments[i], evaluation, &arguments[i], err) < 0)
            return -1;
    if (expression->intrinsic->call(evaluation, arguments, expression->n, ret_value, err) < 0)
        return error_prefix(err, "%s", expression->intrinsic->name);
    return 0;
}
