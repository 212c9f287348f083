/* Paths, queries and headers. See http.h. */
#include "supervisor/http_internal.h"

#include <microhttpd.h>
#include <stdio.h>
#include <string.h>

#define QUERY_MAX 4096 /* bytes of one name or value */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool http_unescape(const char *text, size_t len, char *to, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c == 0 || n + 1 >= size)
            return false;
        to[n++] = (char)c;
    }
    to[n] = '\0';
    return true;
}

/* What stands for the stars of a route's path; text is NULL for a star that it has not. */
struct segments {
    const char *text[2];
    size_t len[2];
};

static bool path_matches(const char *pattern, const char *path, struct segments *ret_segments)
{
    unsigned stars = 0;
    *ret_segments = (struct segments){.len = {0}};
    while (*pattern != '\0') {
        if (*pattern != '*') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t len = strcspn(path, "/");
        if (len == 0 || stars == 2)
            return false;
        ret_segments->text[stars] = path;
        ret_segments->len[stars++] = len;
        path += len;
        pattern++;
    }
    return *path == '\0';
}

static void allow_method(struct http_request *request, const char *method)
{
    size_t len = strlen(request->allow);
    snprintf(request->allow + len, sizeof request->allow - len, "%s%s%s", len > 0 ? ", " : "", method,
             strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

static bool take_segment(struct http_request *request, const struct segments *found, unsigned i, char *to)
{
    if (!found->text[i])
        return true;
    if (http_unescape(found->text[i], found->len[i], to, HTTP_SEGMENT_MAX))
        return true;
    char text[HTTP_SEGMENT_MAX + 64];
    snprintf(text, sizeof text, "not a name: %.*s", found->len[i] < 200 ? (int)found->len[i] : 200,
             found->text[i]);
    request->status = MHD_HTTP_BAD_REQUEST;
    http_set_error(request, text);
    return false;
}

/* Exact paths win over those with stars, whatever their order: a name may be that of a call. */
static bool is_better(const struct http_route *route, const struct http_route *than)
{
    return !than || (strchr(than->path, '*') && !strchr(route->path, '*'));
}

void http_find_route(struct http_request *request, const char *url, const char *method)
{
    const struct http_options *options = &request->server->options;
    struct segments found = {.len = {0}}, at;
    char text[HTTP_SEGMENT_MAX + 64];
    bool any = false;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (size_t i = 0; i < options->n_routes; i++) {
        const struct http_route *route = &options->routes[i];
        if (!path_matches(route->path, url, &at))
            continue;
        any = true;
        if (!request->route)
            allow_method(request, route->method);
        if (strcmp(route->method, wanted) != 0 || !is_better(route, request->route))
            continue;
        request->route = route;
        found = at;
    }
    if (request->route) {
        request->allow[0] = '\0';
        if (take_segment(request, &found, 0, request->segment))
            take_segment(request, &found, 1, request->segment2);
        return;
    }
    if (any) {
        snprintf(text, sizeof text, "method %.20s is not allowed for %.200s", method, url);
        request->status = MHD_HTTP_METHOD_NOT_ALLOWED;
    } else {
        snprintf(text, sizeof text, "no such path: %.200s", url);
        request->status = MHD_HTTP_NOT_FOUND;
    }
    http_set_error(request, text);
}

static enum MHD_Result add_parameter(void *data, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                     const char *value, size_t value_len)
{
    struct http_request *request = data;
    char plain[QUERY_MAX];
    (void)kind;
    if (!http_unescape(name, name_len, plain, sizeof plain))
        goto refuse;
    buffer_append(&request->query, plain, strlen(plain) + 1);
    if (!http_unescape(value ? value : "", value ? value_len : 0, plain, sizeof plain))
        goto refuse;
    buffer_append(&request->query, plain, strlen(plain) + 1);
    return MHD_YES;
refuse:
    request->status = MHD_HTTP_BAD_REQUEST;
    http_set_error(request, "the query holds a bad escape, or a value that is too long");
    return MHD_NO;
}

void http_read_query(struct http_request *request)
{
    MHD_get_connection_values_n(request->connection, MHD_GET_ARGUMENT_KIND, add_parameter, request);
    if (request->query.failed && request->status == 0) {
        request->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        http_set_error(request, "out of memory");
    }
}

const char *http_query(const struct http_request *request, const char *name)
{
    const char *at = request->query.data;
    const char *end = at + request->query.len;
    while (at < end) {
        const char *value = at + strlen(at) + 1;
        if (strcmp(at, name) == 0)
            return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

const char *http_header(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

struct visitor {
    bool (*visit)(void *data, const char *name, size_t name_len, const char *value, size_t value_len);
    void *data;
};

static enum MHD_Result visit_header(void *data, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                    const char *value, size_t value_len)
{
    const struct visitor *visitor = data;
    (void)kind;
    return visitor->visit(visitor->data, name, name_len, value ? value : "", value ? value_len : 0) ? MHD_YES
                                                                                                    : MHD_NO;
}

void http_headers(const struct http_request *request,
                  bool (*visit)(void *data, const char *name, size_t name_len, const char *value,
                                size_t value_len),
                  void *data)
{
    struct visitor visitor = {visit, data};
    MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, visit_header, &visitor);
}
