#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/sigv4.h"
#include "tests/support/function_internal.h"

const char *function_header(const struct function_request *request, const char *name, char *to, size_t size)
{
    size_t len = strlen(name);
    const char *end = request->headers + request->headers_len;
    to[0] = '\0';
    for (const char *line = request->headers; line < end;) {
        const char *stop = memmem(line, (size_t)(end - line), "\r\n", 2);
        if (!stop)
            stop = end;
        if ((size_t)(stop - line) > len && line[len] == ':' && !strncasecmp(line, name, len)) {
            line += len + 1;
            while (line < stop && *line == ' ')
                line++;
            snprintf(to, size, "%.*s", (int)(stop - line), line);
            return to;
        }
        line = stop + 2;
    }
    return to;
}

/* --- who is let in --- */

static bool basic_is_right(const struct function_server *s, const struct function_request *r)
{
    char header[1024], encoded[400], wanted[420];
    EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)s->basic, (int)strlen(s->basic));
    snprintf(wanted, sizeof wanted, "Basic %s", encoded);
    return !strcmp(function_header(r, "Authorization", header, sizeof header), wanted);
}

static bool bearer_is_right(const struct function_server *s, const struct function_request *r)
{
    char header[1024], wanted[300];
    snprintf(wanted, sizeof wanted, "Bearer %s", s->bearer);
    return !strcmp(function_header(r, "Authorization", header, sizeof header), wanted);
}

/* Seconds since 1970 of 20150830T123600Z, or 0. */
static uint64_t read_date(const char *text)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y%m%dT%H%M%SZ", &tm);
    return end && !*end ? (uint64_t)timegm(&tm) : 0;
}

/* The headers that the client says it has signed, but those that signing adds. */
static size_t signed_headers(const struct function_request *r, const char *authorization,
                             struct sigv4_header headers[16], char names[1024], char values[16][512])
{
    static const char *const added[] = {"host", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"};
    const char *list = strstr(authorization, "SignedHeaders=");
    size_t n = 0;
    if (!list)
        return 0;
    snprintf(names, 1024, "%.*s", (int)strcspn(list + 14, ", "), list + 14);
    for (char *save = NULL, *name = strtok_r(names, ";", &save); name && n < 16;
         name = strtok_r(NULL, ";", &save)) {
        bool ours = false;
        for (size_t i = 0; i < 4; i++)
            ours |= !strcmp(name, added[i]);
        if (ours)
            continue;
        function_header(r, name, values[n], sizeof values[n]);
        headers[n] = (struct sigv4_header){name, values[n]};
        n++;
    }
    return n;
}

static bool sigv4_is_right(const struct function_server *s, const struct function_request *r)
{
    char authorization[2048], date[64], host[300], token[512], path[1024], names[1024], values[16][512];
    struct sigv4_header headers[16];
    struct sigv4_signature signature;
    struct error err;
    function_header(r, "Authorization", authorization, sizeof authorization);
    function_header(r, "X-Amz-Date", date, sizeof date);
    function_header(r, "Host", host, sizeof host);
    function_header(r, "X-Amz-Security-Token", token, sizeof token);
    uint64_t at = read_date(date);
    int64_t apart = (int64_t)at - (int64_t)time(NULL);
    if (apart > 300 || apart < -300 || strcmp(token, s->aws_token) != 0)
        return false;
    snprintf(path, sizeof path, "%s", r->path);
    char *query = strchr(path, '?');
    if (query)
        *query++ = '\0';
    struct sigv4_credentials credentials = {s->aws_id, s->aws_secret, *token ? token : NULL};
    struct sigv4_request request = {.method = r->method,
                                    .host = host,
                                    .path = path,
                                    .query = query,
                                    .headers = headers,
                                    .n_headers = signed_headers(r, authorization, headers, names, values),
                                    .body = r->body,
                                    .body_len = r->body_len};
    if (sigv4_sign(&credentials, s->region, s->service, &request, at, &signature, &err) < 0)
        return false;
    bool right = !strcmp(buffer_text(&signature.authorization), authorization);
    sigv4_done(&signature);
    return right;
}

/* 0: let in, else the status. */
static unsigned refusal(const struct function_server *s, const struct function_request *r)
{
    if (*s->basic && !basic_is_right(s, r))
        return 401;
    if (*s->bearer && !bearer_is_right(s, r))
        return 401;
    if (*s->aws_id && !sigv4_is_right(s, r))
        return 403;
    return 0;
}

/* --- what a request is --- */

struct invoked {
    enum function_contract contract;
    char function[FUNCTION_NAME_MAX];
    struct json_value payload; /* an object, or JSON_ABSENT */
    struct json_value sink;
    char task[400];
    char key[128];
};

static void copy_text(const struct json_value *object, const char *name, char *to, size_t size)
{
    struct json_value value;
    if (object->type == JSON_OBJECT && json_member(object, name, &value) && value.type == JSON_STRING) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&value, &text);
        snprintf(to, size, "%s", buffer_text(&text));
    }
}

static enum function_contract read_path(const char *path, char function[FUNCTION_NAME_MAX])
{
    const char *at;
    char plain[1024];
    snprintf(plain, sizeof plain, "%.*s", (int)strcspn(path, "?"), path);
    if ((at = strstr(plain, "/actions/")) && !strncmp(plain, "/api/v1/namespaces/", 19)) {
        snprintf(function, FUNCTION_NAME_MAX, "%.*s", FUNCTION_NAME_MAX - 1, at + 9);
        return CONTRACT_OPENWHISK;
    }
    if (!strncmp(plain, "/2015-03-31/functions/", 22)) {
        snprintf(function, FUNCTION_NAME_MAX, "%.*s", (int)strcspn(plain + 22, "/"), plain + 22);
        return CONTRACT_LAMBDA;
    }
    snprintf(function, FUNCTION_NAME_MAX, "%.*s", FUNCTION_NAME_MAX - 1,
             strncmp(plain, "/f/", 3) ? plain : plain + 3);
    return CONTRACT_ANY;
}

static void read_invoked(const struct function_request *r, struct invoked *i)
{
    struct json_value meta;
    *i = (struct invoked){.payload = {.type = JSON_ABSENT}};
    i->contract = read_path(r->path, i->function);
    function_header(r, "Ce-Subject", i->task, sizeof i->task);
    function_header(r, "Idempotency-Key", i->key, sizeof i->key);
    if (!r->body_len || json_scan(r->body, r->body_len, &i->payload, NULL) < 0 ||
        i->payload.type != JSON_OBJECT) {
        i->payload.type = JSON_ABSENT;
        return;
    }
    if (json_member(&i->payload, "__OW_TRIGGERFLOW", &meta) && meta.type == JSON_OBJECT) {
        copy_text(&meta, "subject", i->task, sizeof i->task);
        copy_text(&meta, "key", i->key, sizeof i->key);
        json_member(&meta, "sink", &i->sink);
    }
    copy_text(&i->payload, "__TRIGGERFLOW_SUBJECT", i->task, sizeof i->task);
    copy_text(&i->payload, "__TRIGGERFLOW_KEY", i->key, sizeof i->key);
    if (i->sink.type != JSON_OBJECT)
        json_member(&i->payload, "__TRIGGERFLOW_EVENT_SOURCE", &i->sink);
}

/* --- counting --- */

static unsigned count_start(struct function_server *s, const struct invoked *i)
{
    char name[FUNCTION_NAME_MAX + 400 + 128 + 3];
    size_t function_len = strlen(i->function) + 1;
    size_t task_len = strlen(i->task) + 1;
    size_t len = function_len + task_len + strlen(i->key) + 1;
    memcpy(name, i->function, function_len);
    memcpy(name + function_len, i->task, task_len);
    memcpy(name + function_len + task_len, i->key, len - function_len - task_len);
    struct function_start *start = hash_get(&s->starts, name, len);
    if (!start) {
        start = calloc(1, sizeof *start + len);
        if (!start)
            abort();
        memcpy(start->name, name, len);
        start->name_len = len;
        start->function = start->name;
        start->task = start->name + function_len;
        start->key = start->task + task_len;
        start->first_ns = clock_now_ns();
        if (hash_put(&s->starts, start->name, len, start, NULL) < 0)
            abort();
        *s->end = start;
        s->end = &start->next;
    }
    start->last_ns = clock_now_ns();
    return ++start->count;
}

/* --- behaviour --- */

static void read_number(const struct json_value *object, const char *name, unsigned *to)
{
    struct json_value value;
    int64_t number;
    if (json_member(object, name, &value) && value.type == JSON_NUMBER && json_integer(&value, &number))
        *to = (unsigned)number;
}

static void read_flag(const struct json_value *object, const char *name, bool *to)
{
    struct json_value value;
    if (json_member(object, name, &value))
        *to = value.type == JSON_TRUE;
}

static void read_mode(const struct json_value *object, enum function_mode *to)
{
    static const char *const modes[] = {"answers", "hangs", "drops", "truncates", "floods", "floods_headers"};
    struct json_value value;
    if (json_member(object, "mode", &value) && value.type == JSON_STRING)
        for (unsigned m = 0; m < 6; m++)
            if (json_equals(&value, modes[m], strlen(modes[m])))
                *to = m;
}

static void find_behaviour(const struct function_server *s, const struct invoked *i,
                           struct function_behaviour *b)
{
    struct json_value behave;
    *b = (struct function_behaviour){.mode = FUNCTION_ANSWERS};
    const struct function_rule *rule = s->rules;
    while (rule && strcmp(rule->function, i->function) != 0)
        rule = rule->next;
    for (const struct function_rule *any = s->rules; !rule && any; any = any->next)
        if (!*any->function)
            *b = any->behaviour;
    if (rule)
        *b = rule->behaviour;
    if (i->payload.type != JSON_OBJECT || !json_member(&i->payload, "behave", &behave) ||
        behave.type != JSON_OBJECT)
        return;
    read_mode(&behave, &b->mode);
    read_number(&behave, "status", &b->status);
    read_number(&behave, "delay_ms", &b->delay_ms);
    read_number(&behave, "run_ms", &b->run_ms);
    read_number(&behave, "fail_first", &b->fail_first);
    read_number(&behave, "close_after", &b->close_after);
    read_number(&behave, "publish_times", &b->publish_times);
    read_flag(&behave, "publish", &b->publish);
    read_flag(&behave, "fails", &b->fails);
    read_flag(&behave, "no_key", &b->no_key);
}

/* --- answer and event --- */

static void plain_result(const struct invoked *i, struct buffer *result)
{
    static const char *const ours[] = {
        "__OW_TRIGGERFLOW",  "__TRIGGERFLOW_SUBJECT", "__TRIGGERFLOW_EVENT_SOURCE",
        "__TRIGGERFLOW_KEY", "__EVENT_DATA",          "behave"};
    struct json_iter iter;
    struct json_value name, value;
    buffer_append_char(result, '{');
    if (i->payload.type == JSON_OBJECT)
        json_iter_init(&iter, &i->payload);
    while (i->payload.type == JSON_OBJECT && json_next(&iter, &name, &value)) {
        bool skip = false;
        for (size_t k = 0; k < sizeof ours / sizeof ours[0]; k++)
            skip |= json_equals(&name, ours[k], strlen(ours[k]));
        if (skip)
            continue;
        size_t len;
        if (result->data[result->len - 1] != '{')
            buffer_append_char(result, ',');
        const char *raw = json_raw(&name, &len);
        buffer_append(result, raw, len);
        buffer_append_char(result, ':');
        raw = json_raw(&value, &len);
        buffer_append(result, raw, len);
    }
    buffer_append_char(result, '}');
}

static void field(struct buffer *event, const char *name, const char *value, size_t len)
{
    buffer_append(event, name, strlen(name) + 1);
    buffer_append(event, value, len);
    buffer_append_char(event, '\0');
}

static void make_event(const struct invoked *i, const struct function_behaviour *b, struct buffer *result,
                       struct buffer *event)
{
    static _Atomic uint64_t count;
    char id[80];
    struct json_value task; /* of a DAG; else it is a state of a machine */
    bool is_state = i->contract == CONTRACT_LAMBDA && !json_member(&i->payload, "__OW_TRIGGERFLOW", &task);
    const char *type = is_state ? (b->fails ? "lambda.failure" : "lambda.success")
                                : (b->fails ? "event.triggerflow.termination.failure"
                                            : "event.triggerflow.termination.success");
    int n = snprintf(id, sizeof id, "run-%llu-%llu", (unsigned long long)clock_unix_ns(),
                     (unsigned long long)atomic_fetch_add(&count, 1));
    field(event, "specversion", "1.0", 3);
    field(event, "id", id, (size_t)n);
    field(event, "source", i->function, strlen(i->function));
    field(event, "type", type, strlen(type));
    field(event, "subject", i->task, strlen(i->task));
    field(event, "datacontenttype", "application/json", 16);
    field(event, "data", buffer_text(result), result->len);
    if (!b->no_key && *i->key)
        field(event, "triggerflowkey", i->key, strlen(i->key));
}

static void find_sink(const struct function_server *s, const struct invoked *i, struct function_verdict *v)
{
    struct json_value parameters, port;
    int64_t number;
    v->sink_port = s->sink_port;
    snprintf(v->sink_stream, sizeof v->sink_stream, "%s", s->sink_stream);
    if (i->sink.type != JSON_OBJECT || !json_member(&i->sink, "parameters", &parameters) ||
        parameters.type != JSON_OBJECT)
        return;
    if (json_member(&parameters, "port", &port) && port.type == JSON_NUMBER && json_integer(&port, &number))
        v->sink_port = (int)number;
    copy_text(&parameters, "stream", v->sink_stream, sizeof v->sink_stream);
}

static void contract_answer(const struct invoked *i, const struct buffer *result, struct function_verdict *v)
{
    static const char activation[] = "{\"activationId\":\"0123456789abcdef0123456789abcdef\"}";
    if (i->contract == CONTRACT_OPENWHISK) {
        v->status = 202;
        buffer_append_text(&v->answer, activation);
    } else if (i->contract == CONTRACT_LAMBDA) {
        v->status = 202;
    } else {
        v->status = 200;
        buffer_append(&v->answer, result->data, result->len);
    }
}

void function_judge(struct function_server *server, const struct function_request *request,
                    struct function_verdict *ret_verdict)
{
    struct function_verdict *v = ret_verdict;
    struct invoked i;
    BUFFER_AUTO result = BUFFER_INIT;
    *v = (struct function_verdict){.status = refusal(server, request)};
    server->requests++;
    if (v->status) {
        server->refused++;
        buffer_append_text(&v->answer, "{\"error\":\"not let in\",\"code\":\"1\"}");
        return;
    }
    read_invoked(request, &i);
    find_behaviour(server, &i, &v->behaviour);
    struct function_behaviour *b = &v->behaviour;
    bool well = count_start(server, &i) > b->fail_first && b->fail_first;
    if (well) {
        b->mode = FUNCTION_ANSWERS;
        b->status = 0;
        b->retry_after = NULL;
        b->body = NULL;
    }
    if (server->compute)
        b->fails |= !server->compute(server->compute_data, i.function, &i.payload, &result);
    else
        plain_result(&i, &result);
    contract_answer(&i, &result, v);
    if (b->status)
        v->status = b->status;
    if (b->body) {
        buffer_reset(&v->answer, 4096);
        buffer_append_text(&v->answer, b->body);
    }
    if (b->publish && result.len && v->status < 300 && b->mode == FUNCTION_ANSWERS) {
        find_sink(server, &i, v);
        make_event(&i, b, &result, &v->event);
    }
}

void function_verdict_done(struct function_verdict *verdict)
{
    buffer_done(&verdict->answer);
    buffer_done(&verdict->event);
}

/* --- publishing --- */

static redisContext *sink_to(struct function_server *s, int port)
{
    struct function_sink *sink = s->sinks;
    while (sink < s->sinks + FUNCTION_SINKS - 1 && sink->port && sink->port != port)
        sink++;
    if (sink->redis && (sink->redis->err || sink->port != port)) {
        redisFree(sink->redis);
        sink->redis = NULL;
    }
    sink->port = port;
    if (!sink->redis)
        sink->redis = redisConnect("127.0.0.1", port);
    return sink->redis && !sink->redis->err ? sink->redis : NULL;
}

void function_publish(struct function_server *server, struct function_verdict *verdict)
{
    const char *argv[32] = {"XADD", verdict->sink_stream, "*"};
    size_t lens[32] = {4, strlen(verdict->sink_stream), 1};
    int argc = 3;
    redisContext *redis = sink_to(server, verdict->sink_port);
    for (size_t at = 0; at < verdict->event.len && argc < 32; argc++) {
        argv[argc] = verdict->event.data + at;
        lens[argc] = strlen(argv[argc]);
        at += lens[argc] + 1;
    }
    unsigned times = verdict->behaviour.publish_times ? verdict->behaviour.publish_times : 1;
    for (unsigned n = 0; redis && n < times; n++) {
        redisReply *reply = redisCommandArgv(redis, argc, argv, lens);
        if (!reply || reply->type == REDIS_REPLY_ERROR)
            fprintf(stderr, "function_server: XADD: %s\n", reply ? reply->str : redis->errstr);
        else
            server->published++;
        if (reply)
            freeReplyObject(reply);
    }
    if (!redis)
        fprintf(stderr, "function_server: no Redis at port %d\n", verdict->sink_port);
}
