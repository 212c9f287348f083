/* The trigger API's OpenAPI document: it names exactly the routes there are. */
#include "supervisor/openapi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_trigger.h"
#include "supervisor/http.h"

static struct json_value member(const struct json_value *object, const char *name)
{
    struct json_value value;
    assert_int_equal(object->type, JSON_OBJECT);
    json_member(object, name, &value);
    return value;
}

static struct json_value document_paths(void)
{
    size_t len;
    const char *text = openapi_document(&len);
    struct json_value root;
    struct error err;
    assert_int_equal(json_scan(text, len, &root, &err), 0);
    struct json_value paths = member(&root, "paths");
    assert_int_equal(paths.type, JSON_OBJECT);
    return paths;
}

/* "/workspace/{workspace}/pause" as a route has it. */
static void as_pattern(const char *path, char *to)
{
    for (; *path; path++) {
        *to++ = *path == '{' ? '*' : *path;
        if (*path == '{')
            path = strchr(path, '}');
    }
    *to = '\0';
}

static const struct http_route *route_of(const struct json_value *method, const char *pattern)
{
    size_t n;
    const struct http_route *routes = api_trigger_routes(&n);
    for (size_t i = 0; i < n; i++)
        if (strlen(routes[i].method) == method->len &&
            strncasecmp(routes[i].method, method->text, method->len) == 0 &&
            strcmp(routes[i].path, pattern) == 0)
            return &routes[i];
    return NULL;
}

/* Whether the operation is open to all, and asks for a body, as its route does. */
static void check_operation(const struct http_route *route, const struct json_value *operation)
{
    struct json_value responses = member(operation, "responses");
    bool open = member(operation, "security").type != JSON_ABSENT;
    if (open != route->open)
        fail_msg("%s %s: open in the one, not in the other", route->method, route->path);
    assert_true(open || member(&responses, "401").type == JSON_OBJECT);
    if (strncmp(route->path, "/workspace/*", 12) == 0)
        assert_int_equal(member(&responses, "404").type, JSON_OBJECT);
    if (member(operation, "requestBody").type != JSON_ABSENT)
        assert_int_equal(member(&responses, "415").type, JSON_OBJECT);
}

/* Goes through the document and ticks off the routes. */
static void test_the_routes_are_the_document(void **state)
{
    (void)state;
    struct json_value paths = document_paths(), path, item, method, operation;
    struct json_iter over_paths, over_methods;
    char text[256], pattern[256];
    size_t n, found = 0;
    const struct http_route *routes = api_trigger_routes(&n);
    json_iter_init(&over_paths, &paths);
    while (json_next(&over_paths, &path, &item)) {
        snprintf(text, sizeof text, "%.*s", (int)path.len, path.text);
        as_pattern(text, pattern);
        json_iter_init(&over_methods, &item);
        for (; json_next(&over_methods, &method, &operation); found++) {
            const struct http_route *route = route_of(&method, pattern);
            if (!route)
                fail_msg("no such route: %.*s %s", (int)method.len, method.text, text);
            else
                check_operation(route, &operation);
        }
    }
    if (found != n)
        fail_msg("%zu of %zu routes are documented, the last is %s %s", found, n, routes[n - 1].method,
                 routes[n - 1].path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_routes_are_the_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
