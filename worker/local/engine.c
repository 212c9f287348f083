#include "worker/local/engine.h"

#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/report.h"

#define ANSWER_MAX (4u << 20)
#define PROGRESS_KEPT (64u << 10)

static void begin_request(const struct engine *engine, const char *path, uint64_t timeout_ns,
                          struct http_call_request *r)
{
    http_call_request_init(r);
    buffer_append_text(&r->url, "http://docker");
    buffer_append_text(&r->url, path);
    buffer_append_text(&r->unix_socket, engine->socket);
    r->connect_timeout_ns = ENGINE_TIMEOUT;
    r->timeout_ns = timeout_ns;
    r->answer_max = ANSWER_MAX;
}

int engine_ask(struct engine *engine, const char *method, const char *path, const struct buffer *body,
               uint64_t timeout_ns, http_call_done done, void *data, struct http_call **ret_call,
               struct error *err)
{
    struct http_call_request r;
    begin_request(engine, path, timeout_ns, &r);
    int result = http_call_method(&r, method, strlen(method), err);
    if (result == 0 && body) {
        buffer_append(&r.body, body->data, body->len);
        result = http_call_header(&r, "Content-Type", "application/json", err);
    }
    if (result == 0 && (r.url.failed || r.body.failed || (body && body->failed)))
        result = error_set(err, ERROR_MEMORY, "out of memory");
    if (result == 0)
        result = http_call_start(engine->calls, &r, done, data, ret_call, err);
    http_call_request_done(&r);
    return result;
}

int engine_follow(struct engine *engine, const char *path, uint64_t timeout_ns, http_call_done done,
                  void *data, struct http_call **ret_call, struct error *err)
{
    struct http_call_request r;
    begin_request(engine, path, timeout_ns, &r);
    r.answer_max = PROGRESS_KEPT;
    r.keep_last = true;
    int result = http_call_method(&r, "POST", 4, err);
    if (result == 0)
        result = http_call_start(engine->calls, &r, done, data, ret_call, err);
    http_call_request_done(&r);
    return result;
}

void engine_explain(const struct http_answer *answer, const char *what, struct error *err)
{
    struct json_value root, message;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!answer->status) {
        *err = *answer->error;
        error_prefix(err, "Docker Engine, %s", what);
        err->code = ERROR_UNAVAILABLE;
        return;
    }
    if (json_scan(answer->body, answer->len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
        json_member(&root, "message", &message) && message.type == JSON_STRING)
        json_unescape(&message, &text);
    bool final = answer->status == 400 || answer->status == 404;
    error_set(err, final ? ERROR_REFUSED : ERROR_UNAVAILABLE, "Docker Engine, %s: %u %s", what,
              answer->status, buffer_text(&text));
}

void engine_note(struct engine *engine, const struct http_answer *answer)
{
    struct error err;
    bool away = !answer->status;
    if (away == engine->away)
        return;
    engine->away = away;
    if (away) {
        error_set(&err, ERROR_UNAVAILABLE, "Docker Engine at %.200s: %s", engine->socket,
                  answer->error->message);
        log_warn("docker_engine", LOG_STR("state", "unavailable"), LOG_STR("error", err.message));
    } else {
        log_info("docker_engine", LOG_STR("state", "ok"));
    }
    report_warning(engine->report, "docker_engine", away ? err.message : NULL);
}

bool engine_text(const struct json_value *object, const char *member, char *out, size_t size)
{
    struct json_value value;
    if (!json_member(object, member, &value) || value.type != JSON_STRING || !value.len ||
        value.len >= size || value.escaped)
        return false;
    memcpy(out, value.text, value.len);
    out[value.len] = '\0';
    return true;
}

bool engine_address(const struct json_value *settings, char *out, size_t size)
{
    struct json_value networks, name, network;
    struct json_iter iter;
    if (engine_text(settings, "IPAddress", out, size))
        return true;
    if (!json_member(settings, "Networks", &networks) || networks.type != JSON_OBJECT)
        return false;
    json_iter_init(&iter, &networks);
    while (json_next(&iter, &name, &network))
        if (network.type == JSON_OBJECT && engine_text(&network, "IPAddress", out, size))
            return true;
    return false;
}

bool engine_port(const struct json_value *settings, char *out, size_t size)
{
    struct json_value ports, bindings, name, binding;
    struct json_iter iter;
    if (!json_member(settings, "Ports", &ports) || ports.type != JSON_OBJECT ||
        !json_member(&ports, "80/tcp", &bindings) || bindings.type != JSON_ARRAY)
        return false;
    json_iter_init(&iter, &bindings);
    return json_next(&iter, &name, &binding) && binding.type == JSON_OBJECT &&
           engine_text(&binding, "HostPort", out, size);
}
