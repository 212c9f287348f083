#include "tests/support/http_load.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <curl/curl.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "tests/support/wait.h"

#define BATCH_MOST 50
#define KEYS 400
#define CLIENTS_MOST 8
#define JOIN_TARGET 40
#define ONCE_TARGET 25

enum kind { JOIN, COUNT, FUNCTION, CHAIN, KEY, ONCE, MAYBE, KINDS };

static const struct {
    const char *type;
    unsigned subjects;
    unsigned weight;
} kinds[KINDS] = {
    [JOIN] = {"e.join", 4, 40},   [COUNT] = {"e.count", 2, 15}, [FUNCTION] = {"e.function", 1, 10},
    [CHAIN] = {"e.chain", 1, 15}, [KEY] = {"e.key", 1, 10},     [ONCE] = {"e.once", 1, 5},
    [MAYBE] = {"e.maybe", 1, 5},
};

struct event {
    enum kind kind;
    unsigned subject;
    unsigned key;
    char id[40];
};

struct client {
    struct http_load *load;
    pthread_t thread;
    unsigned index;
    uint64_t random;
    uint64_t published;
    CURL *curl;
};

struct http_load {
    char socket_path[160];
    char workspace[64];
    char path[128];
    unsigned n_clients;
    struct client clients[CLIENTS_MOST];
    _Atomic bool stopping;
    _Atomic bool abandoned;
    _Atomic unsigned running;
    _Atomic uint64_t answered;
    _Atomic uint64_t counts[KINDS][4]; /* published, and sooner or later answered 2xx */
    _Atomic uint64_t unsure;           /* `maybe` events whose only try was not answered 2xx */
    _Atomic bool keys[KEYS];
    _Atomic unsigned wrong;
    pthread_mutex_t lock;
    char text[256]; /* Requires: lock */
};

/* --- HTTP --- */

static size_t take_body(char *data, size_t size, size_t n, void *user)
{
    buffer_append(user, data, size * n);
    return size * n;
}

static long perform(CURL *curl, const char *socket_path, const char *method, const char *path,
                    struct curl_slist *headers, const char *body, struct buffer *answer)
{
    char url[512];
    long status = 0;
    snprintf(url, sizeof url, "http://localhost%s", path);
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    if (curl_easy_perform(curl) != CURLE_OK)
        return 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

long http_load_call(const char *socket_path, const char *method, const char *path, const char *body,
                    struct buffer *ret_answer)
{
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    long status = curl ? perform(curl, socket_path, method, path, headers, body, ret_answer) : 0;
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return status;
}

/* --- events --- */

static uint64_t random_below(struct client *c, uint64_t n)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return (c->random >> 11) % n;
}

static struct event choose(struct client *c, bool maybe)
{
    uint64_t left = random_below(c, 100);
    enum kind kind = JOIN;
    while (left >= kinds[kind].weight)
        left -= kinds[kind++].weight;
    if (maybe)
        kind = MAYBE;
    struct event e = {.kind = kind,
                      .subject = (unsigned)random_below(c, kinds[kind].subjects),
                      .key = (unsigned)random_below(c, KEYS)};
    snprintf(e.id, sizeof e.id, "client%u-%llu", c->index, (unsigned long long)c->published++);
    return e;
}

static void write_event(const struct event *e, struct buffer *out)
{
    buffer_printf(
        out,
        "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"urn:load\",\"type\":\"%s\",\"subject\":"
        "\"s%u\",\"data\":{\"n\":1}",
        e->id, kinds[e->kind].type, e->subject);
    if (e->kind == KEY)
        buffer_printf(out, ",\"triggerflowkey\":\"key-%u\"", e->key);
    buffer_append_char(out, '}');
}

static struct curl_slist *add_header(struct curl_slist *headers, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static struct curl_slist *add_header(struct curl_slist *headers, const char *name, const char *format, ...)
{
    char line[160];
    va_list args;
    int n = snprintf(line, sizeof line, "%s: ", name);
    va_start(args, format);
    vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    va_end(args);
    return curl_slist_append(headers, line);
}

struct request {
    struct event events[BATCH_MOST];
    unsigned n;
    struct buffer body;
    struct curl_slist *headers;
};

static void write_binary(struct request *r)
{
    const struct event *e = &r->events[0];
    r->headers = add_header(r->headers, "Content-Type", "application/json");
    r->headers = add_header(r->headers, "ce-specversion", "1.0");
    r->headers = add_header(r->headers, "ce-id", "%s", e->id);
    r->headers = add_header(r->headers, "ce-source", "urn:load");
    r->headers = add_header(r->headers, "ce-type", "%s", kinds[e->kind].type);
    r->headers = add_header(r->headers, "ce-subject", "s%u", e->subject);
    if (e->kind == KEY)
        r->headers = add_header(r->headers, "ce-triggerflowkey", "key-%u", e->key);
    buffer_append_text(&r->body, "{\"n\":1}");
}

static void write_request(struct client *c, struct request *r)
{
    if (r->n == 1 && random_below(c, 2)) {
        write_binary(r);
        return;
    }
    bool batch = r->n > 1 || !random_below(c, 3);
    r->headers =
        add_header(r->headers, "Content-Type", "application/cloudevents%s+json", batch ? "-batch" : "");
    if (batch)
        buffer_append_char(&r->body, '[');
    for (unsigned i = 0; i < r->n; i++) {
        if (i)
            buffer_append_char(&r->body, ',');
        write_event(&r->events[i], &r->body);
    }
    if (batch)
        buffer_append_char(&r->body, ']');
}

/* --- clients --- */

static void note_wrong(struct http_load *load, long status, const char *text)
{
    atomic_fetch_add(&load->wrong, 1);
    pthread_mutex_lock(&load->lock);
    snprintf(load->text, sizeof load->text, "%ld %s", status, text);
    pthread_mutex_unlock(&load->lock);
}

/* 0: nobody answered. */
static long send_once(struct client *c, struct request *r, struct buffer *answer)
{
    buffer_reset(answer, 4096);
    long status = perform(c->curl, c->load->socket_path, "POST", c->load->path, r->headers,
                          buffer_text(&r->body), answer);
    if (status && status != 202 && status != 429 && status != 503)
        note_wrong(c->load, status, buffer_text(answer));
    return status;
}

/* Until it is answered 2xx. */
static bool send_surely(struct client *c, struct request *r, struct buffer *answer)
{
    while (send_once(c, r, answer) != 202) {
        if (atomic_load(&c->load->abandoned))
            return false;
        wait_moment();
    }
    atomic_fetch_add(&c->load->answered, r->n);
    return true;
}

static void count(struct http_load *load, const struct event *e)
{
    atomic_fetch_add(&load->counts[e->kind][e->subject], 1);
    if (e->kind == KEY)
        atomic_store(&load->keys[e->key], true);
}

static void expect_repetition(struct client *c, struct request *r, struct buffer *answer)
{
    char expected[64];
    if (!send_surely(c, r, answer))
        return;
    snprintf(expected, sizeof expected, "\"duplicates\":%u}", r->n);
    if (!strstr(buffer_text(answer), expected))
        note_wrong(c->load, 202, buffer_text(answer));
}

static void work(struct client *c, struct buffer *answer)
{
    struct request r = {.body = BUFFER_INIT};
    bool maybe = !random_below(c, 15);
    r.n = random_below(c, 3) ? 1 : 1 + (unsigned)random_below(c, BATCH_MOST);
    for (unsigned i = 0; i < r.n; i++)
        r.events[i] = choose(c, maybe);
    write_request(c, &r);
    if (maybe) {
        if (send_once(c, &r, answer) == 202)
            atomic_fetch_add(&c->load->counts[MAYBE][0], r.n);
        else
            atomic_fetch_add(&c->load->unsure, r.n);
    } else {
        for (unsigned i = 0; i < r.n; i++)
            count(c->load, &r.events[i]);
        if (send_surely(c, &r, answer) && !random_below(c, 10))
            expect_repetition(c, &r, answer);
    }
    curl_slist_free_all(r.headers);
    buffer_done(&r.body);
}

static void *client_main(void *data)
{
    struct client *c = data;
    BUFFER_AUTO answer = BUFFER_INIT;
    while (!atomic_load(&c->load->stopping))
        work(c, &answer);
    atomic_fetch_sub(&c->load->running, 1);
    return NULL;
}

int http_load_start(const char *socket_path, const char *workspace, unsigned clients, uint64_t seed,
                    struct http_load **ret_load)
{
    struct http_load *load = calloc(1, sizeof *load);
    if (!load || clients > CLIENTS_MOST) {
        free(load);
        return -1;
    }
    pthread_mutex_init(&load->lock, NULL);
    snprintf(load->socket_path, sizeof load->socket_path, "%s", socket_path);
    snprintf(load->workspace, sizeof load->workspace, "%s", workspace);
    snprintf(load->path, sizeof load->path, "/workspace/%s/event", workspace);
    for (unsigned i = 0; i < clients; i++) {
        struct client *c = &load->clients[i];
        *c = (struct client){
            .load = load, .index = i, .random = seed + i * 7919 + 1, .curl = curl_easy_init()};
        atomic_fetch_add(&load->running, 1);
        if (!c->curl || pthread_create(&c->thread, NULL, client_main, c)) {
            curl_easy_cleanup(c->curl);
            atomic_fetch_sub(&load->running, 1);
            break;
        }
        load->n_clients++;
    }
    *ret_load = load;
    return 0;
}

bool http_load_stop(struct http_load *load, uint64_t timeout_ns)
{
    uint64_t until = clock_now_ns() + timeout_ns;
    atomic_store(&load->stopping, true);
    while (atomic_load(&load->running) && clock_now_ns() < until)
        wait_moment();
    bool in_time = !atomic_load(&load->running);
    atomic_store(&load->abandoned, true);
    for (unsigned i = 0; i < load->n_clients; i++) {
        pthread_join(load->clients[i].thread, NULL);
        curl_easy_cleanup(load->clients[i].curl);
    }
    load->n_clients = 0;
    return in_time;
}

void http_load_free(struct http_load *load)
{
    if (!load)
        return;
    pthread_mutex_destroy(&load->lock);
    free(load);
}

uint64_t http_load_answered(const struct http_load *load)
{
    return atomic_load(&load->answered);
}

unsigned http_load_wrong(const struct http_load *load, char ret_text[256])
{
    snprintf(ret_text, 256, "%s", load->text);
    return atomic_load(&load->wrong);
}

/* --- the workflow, and what it must come to --- */

#define NEVER 1000000000

struct definition {
    const char *id, *condition, *target; /* the context's member */
    int64_t value;
    const char *type, *subject, *action;
    bool transient;
};

#define PASS "{\"name\":\"PASS\"}"
#define EMIT(type) "{\"name\":\"EMIT\",\"event\":{\"type\":\"" type "\",\"subject\":\"s\"}}"

static const struct definition definitions[] = {
    {"join0", "JOIN", "join", JOIN_TARGET, "e.join", "s0", EMIT("i.joined"), false},
    {"join1", "JOIN", "join", NEVER, "e.join", "s1", PASS, false},
    {"join2", "JOIN", "join", JOIN_TARGET, "e.join", "s2", EMIT("i.joined"), false},
    {"join3", "JOIN", "join", 1, "e.join", "s3", "{\"name\":\"TERMINATE\"}", false},
    {"join_all", "JOIN", "join", NEVER, "e.join", "*", PASS, false},
    {"joined", "COUNTER_THRESHOLD", "threshold", 1, "i.joined", "*", PASS, false},
    {"count0", "COUNTER_THRESHOLD", "threshold", 10, "e.count", "s0", EMIT("i.counted"), false},
    {"count1", "COUNTER_THRESHOLD", "threshold", NEVER, "e.count", "s1", PASS, false},
    {"counted", "JOIN", "join", NEVER, "i.counted", "s", PASS, false},
    {"function", "FUNCTION_JOIN", "total_activations", 30, "e.function", "*", EMIT("i.joined"), false},
    {"chain", "TRUE", "note", 7, "e.chain", "*", EMIT("i.chain"), false},
    {"chained", "TRUE", "note", 7, "i.chain", "*", EMIT("i.end"), false},
    {"chain_end", "JOIN", "join", NEVER, "i.end", "s", PASS, false},
    {"key", "JOIN", "join", NEVER, "e.key", "*", PASS, false},
    {"key_all", "COUNTER_THRESHOLD", "threshold", NEVER, "e.key", "*", PASS, false},
    {"once", "JOIN", "join", ONCE_TARGET, "e.once", "*", PASS, true},
    {"once_all", "COUNTER_THRESHOLD", "threshold", NEVER, "e.once", "*", PASS, false},
    {"maybe", "COUNTER_THRESHOLD", "threshold", NEVER, "e.maybe", "*", PASS, false},
};

void http_load_triggers(struct buffer *out)
{
    buffer_append_text(out, "{\"triggers\":[");
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++) {
        const struct definition *d = &definitions[i];
        buffer_printf(
            out,
            "%s{\"id\":\"%s\",\"condition\":{\"name\":\"%s\"},\"action\":%s,\"context\":{\"%s\":%lld},"
            "\"activation_events\":[{\"type\":\"%s\",\"subject\":\"%s\"}],\"transient\":%s}",
            i ? "," : "", d->id, d->condition, d->action, d->target, (long long)d->value, d->type, d->subject,
            d->transient ? "true" : "false");
    }
    buffer_append_text(out, "]}");
}

static uint64_t sum(const struct http_load *load, enum kind kind)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < kinds[kind].subjects; i++)
        n += atomic_load(&load->counts[kind][i]);
    return n;
}

static uint64_t sum_keys(const struct http_load *load)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < KEYS; i++)
        n += atomic_load(&load->keys[i]);
    return n;
}

/* The least count that is right; *ret_most the greatest. */
static uint64_t expected_count(const struct http_load *load, const struct definition *d, uint64_t *ret_most)
{
    uint64_t n = 0;
    for (int kind = 0; kind < KINDS; kind++)
        if (!strcmp(d->type, kinds[kind].type))
            n = *d->subject == '*' ? sum(load, (enum kind)kind)
                                   : atomic_load(&load->counts[kind][d->subject[1] - '0']);
    uint64_t counted = atomic_load(&load->counts[COUNT][0]);
    if (!strcmp(d->id, "joined"))
        n = (atomic_load(&load->counts[JOIN][0]) >= JOIN_TARGET ? 1u : 0u) +
            (atomic_load(&load->counts[JOIN][2]) >= JOIN_TARGET ? 1u : 0u) +
            (sum(load, FUNCTION) >= 30 ? 1u : 0u);
    else if (!strcmp(d->id, "counted"))
        n = counted >= 10 ? counted - 9 : 0;
    else if (!strcmp(d->id, "chain_end"))
        n = sum(load, CHAIN);
    else if (!strcmp(d->id, "key"))
        n = sum_keys(load);
    *ret_most = n + (strcmp(d->id, "maybe") ? 0 : atomic_load(&load->unsure));
    return n;
}

/* The context of an answer {ID: trigger}; NULL without. */
static struct json_object *context_of(struct json_object *root, const char *id)
{
    struct json_object *at = NULL;
    return json_object_object_get_ex(root, id, &at) && json_object_object_get_ex(at, "context", &at) ? at
                                                                                                     : NULL;
}

static bool context_right(struct json_object *context, const struct definition *d, uint64_t least,
                          uint64_t most)
{
    struct json_object *value = NULL;
    bool counts = strcmp(d->condition, "TRUE");
    if (!context || !json_object_object_get_ex(context, d->target, &value) ||
        json_object_get_int64(value) != d->value)
        return false;
    bool has = json_object_object_get_ex(context, "counter", &value);
    uint64_t counter = has ? (uint64_t)json_object_get_int64(value) : 0;
    if (json_object_object_length(context) != 1 + has || (has && !counts))
        return false;
    return !counts || (counter >= least && counter <= most);
}

unsigned http_load_compare(const struct http_load *load, bool tell)
{
    unsigned differences = 0;
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++) {
        const struct definition *d = &definitions[i];
        BUFFER_AUTO answer = BUFFER_INIT;
        char path[192];
        uint64_t most;
        uint64_t least = expected_count(load, d, &most);
        snprintf(path, sizeof path, "/workspace/%s/trigger/%s", load->workspace, d->id);
        long status = http_load_call(load->socket_path, "GET", path, NULL, &answer);
        struct json_object *root = status == 200 ? json_tokener_parse(buffer_text(&answer)) : NULL;
        bool gone = d->transient && least >= (uint64_t)d->value;
        bool right = gone ? status == 404 : context_right(context_of(root, d->id), d, least, most);
        if (!right && tell)
            fprintf(stderr, "%s: %llu to %llu expected%s; %ld %s\n", d->id, (unsigned long long)least,
                    (unsigned long long)most, gone ? ", and the trigger gone" : "", status,
                    buffer_text(&answer));
        differences += !right;
        json_object_put(root);
    }
    return differences;
}
