#include "worker/local/container.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/local/container_keeper.h"

#define START_LONGEST (60 * CLOCK_S)             /* from its creation to its first answer */
#define CHECK_LONGEST (5 * CLOCK_S)              /* for an answer when it is looked at */
#define WATCH_LONGEST (20 * 24 * 3600 * CLOCK_S) /* then its end is seen by its silence */
#define PROBE_TIMEOUT CLOCK_S
#define LOOK_FIRST (10 * CLOCK_MS) /* between two looks; doubling */
#define LOOK_LONGEST (250 * CLOCK_MS)
#define NAME_MAX_BYTES 64

enum state { ABSENT, STARTING, READY, CHECKING, REMOVING };

struct container_wait {
    struct container_wait *next;
    struct container *container;
    container_ready ready;
    void *data;
};

struct container {
    struct containers_common *common;
    char image[IMAGE_MAX + 1];
    char name[NAME_MAX_BYTES];
    char url[96];
    enum state state;
    bool again; /* it is removed to be started anew */
    uint64_t deadline_ns;
    uint64_t look_ns;
    struct image_search search;
    struct http_call *call;
    struct http_call *watch; /* answered when it ends */
    struct container_wait *waits;
    struct hash_table scripts; /* path -> struct script */
    struct error why;          /* while it is removed: why it failed */
};

struct script {
    uint64_t hash;
    char path[];
};

/* --- its steps --- */

static void inspect(struct container *c);
static void create(struct container *c);
static void give_up(struct container *c, const struct error *why);

static void step(struct container *c, const char *method, const char *path, const struct buffer *body,
                 uint64_t timeout_ns, http_call_done done)
{
    struct error err;
    if (engine_ask(&c->common->engine, method, path, body, timeout_ns, done, c, &c->call, &err) < 0)
        give_up(c, &err);
}

static void forget_scripts(struct container *c)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(&c->scripts, &cursor));)
        free(e->value);
    hash_done(&c->scripts);
    hash_init(&c->scripts);
}

/* The outcome for who waits. */
static void tell(struct container *c, const struct error *why)
{
    struct container_wait *list = c->waits;
    c->waits = NULL;
    while (list) {
        struct container_wait *w = list;
        list = w->next;
        w->ready(w->data, why ? NULL : c, why);
        free(w);
    }
}

static void tell_ready(void *data)
{
    struct container *c = data;
    if (c->state == READY)
        tell(c, NULL);
}

static void begin(struct container *c)
{
    c->state = STARTING;
    c->again = false;
    c->look_ns = LOOK_FIRST;
    c->deadline_ns = clock_now_ns() + START_LONGEST;
    forget_scripts(c);
    image_find(&c->search);
}

static void on_removed(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    c->call = NULL;
    engine_note(&c->common->engine, answer);
    c->state = ABSENT;
    if (c->again && c->waits && answer->status)
        begin(c);
    else
        tell(c, &c->why);
}

static void stop_watching(struct container *c)
{
    if (c->watch)
        http_call_cancel(c->watch);
    c->watch = NULL;
}

/* Removes it; then, again, and somebody waits: from the beginning. */
static void give_up_or_again(struct container *c, const struct error *why, bool again)
{
    char path[160];
    struct error err;
    log_warn("container", LOG_STR("image", c->image), LOG_STR("error", why->message));
    c->why = *why;
    c->again = again;
    c->state = REMOVING;
    stop_watching(c);
    snprintf(path, sizeof path, "/containers/%s?force=1&v=1", c->name);
    if (engine_ask(&c->common->engine, "DELETE", path, NULL, ENGINE_TIMEOUT, on_removed, c, &c->call, &err) ==
        0)
        return;
    c->state = ABSENT;
    tell(c, &c->why);
}

static void give_up(struct container *c, const struct error *why)
{
    give_up_or_again(c, why, c->state == CHECKING);
}

/* Once more, a little later. */
static void later(struct container *c, loop_timer callback)
{
    loop_timer_set(c->common->loop, clock_now_ns() + c->look_ns, callback, c, NULL);
    c->look_ns = c->look_ns * 2 < LOOK_LONGEST ? c->look_ns * 2 : LOOK_LONGEST;
}

/* --- its creation --- */

static void on_image(void *data, const struct error *why)
{
    struct container *c = data;
    if (why) {
        give_up(c, why);
        return;
    }
    c->deadline_ns = clock_now_ns() + START_LONGEST;
    create(c);
}

static void describe(const struct container *c, struct buffer *out)
{
    const struct containers_common *common = c->common;
    const struct config *config = common->config;
    long long memory = (long long)config->docker_memory;
    buffer_append_text(out, "{\"Image\":");
    buffer_append_json(out, c->image, strlen(c->image));
    buffer_printf(
        out, ",\"Env\":[\"TRIGGERFLOW_WORKSPACE=%s\"],\"StopTimeout\":1,\"ExposedPorts\":{\"80/tcp\":{}}",
        common->workspace);
    buffer_printf(out,
                  ",\"Labels\":{\"triggerflow.owner\":\"%s\",\"triggerflow.life\":\"%s\","
                  "\"triggerflow.workspace\":\"%s\"}",
                  common->owner, common->life, common->workspace);
    buffer_printf(out,
                  ",\"HostConfig\":{\"Memory\":%lld,\"MemorySwap\":%lld,\"NanoCpus\":%lld,\"PidsLimit\":%lld",
                  memory, memory, (long long)config->docker_cpu_percent * 10000000,
                  (long long)config->docker_processes);
    buffer_append_text(
        out, ",\"Privileged\":false,\"CapDrop\":[\"ALL\"],\"CapAdd\":[\"NET_BIND_SERVICE\"],"
             "\"SecurityOpt\":[\"no-new-privileges\"],\"RestartPolicy\":{\"Name\":\"no\"},"
             "\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"max-size\":\"1m\",\"max-file\":\"1\"}}");
    if (config->docker_reach == CONFIG_DOCKER_PORT)
        buffer_append_text(out,
                           ",\"PortBindings\":{\"80/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}]}");
    buffer_append_text(out, ",\"NetworkMode\":");
    buffer_append_json(out, config->docker_network,
                       utf8_valid(config->docker_network, strlen(config->docker_network))
                           ? strlen(config->docker_network)
                           : 0);
    buffer_append_text(out, "}}");
}

static void on_started(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    c->call = NULL;
    engine_note(&c->common->engine, answer);
    if (answer->status == 204 || answer->status == 304) {
        inspect(c);
        return;
    }
    engine_explain(answer, "starting the container", &err);
    give_up(c, &err);
}

static void create_again(void *data)
{
    create(data);
}

/* Whatever has the name is of an earlier life. */
static void on_name_free(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    c->call = NULL;
    engine_note(&c->common->engine, answer);
    if (answer->status && clock_now_ns() < c->deadline_ns) {
        later(c, create_again);
        return;
    }
    engine_explain(answer, "removing a container of that name", &err);
    give_up(c, &err);
}

static void on_created(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    char path[160];
    c->call = NULL;
    engine_note(&c->common->engine, answer);
    if (answer->status == 409) {
        snprintf(path, sizeof path, "/containers/%s?force=1&v=1", c->name);
        step(c, "DELETE", path, NULL, ENGINE_TIMEOUT, on_name_free);
    } else if (answer->status == 201) {
        snprintf(path, sizeof path, "/containers/%s/start", c->name);
        step(c, "POST", path, NULL, ENGINE_TIMEOUT, on_started);
    } else {
        engine_explain(answer, "creating the container", &err);
        give_up(c, &err);
    }
}

static void create(struct container *c)
{
    char path[160];
    BUFFER_AUTO body = BUFFER_INIT;
    describe(c, &body);
    c->common->there_may_be = true;
    container_keeper_tell(c->common->keeper, true);
    snprintf(path, sizeof path, "/containers/create?name=%s", c->name);
    step(c, "POST", path, &body, ENGINE_TIMEOUT, on_created);
}

/* --- whether it runs and answers --- */

static void inspect_again(void *data)
{
    inspect(data);
}

/* Without this, calls of one that is gone find nobody at its address, which takes seconds to tell. */
static void on_end(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    c->watch = NULL;
    if (answer->status == 200)
        container_suspect(c);
}

static void watch(struct container *c)
{
    char path[160];
    struct error err;
    snprintf(path, sizeof path, "/containers/%s/wait", c->name);
    if (!c->watch &&
        engine_ask(&c->common->engine, "POST", path, NULL, WATCH_LONGEST, on_end, c, &c->watch, &err) < 0)
        log_warn("container_watch", LOG_STR("image", c->image), LOG_STR("error", err.message));
}

static void on_probe(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    c->call = NULL;
    if (answer->status) {
        if (c->state == STARTING)
            log_info("container_ready", LOG_STR("image", c->image), LOG_STR("url", c->url));
        c->state = READY;
        watch(c);
        tell(c, NULL);
    } else if (clock_now_ns() < c->deadline_ns) {
        later(c, inspect_again);
    } else {
        error_set(&err, ERROR_UNAVAILABLE, "the container does not answer at %s: %.100s", c->url,
                  answer->error->message);
        give_up(c, &err);
    }
}

static void probe(struct container *c)
{
    struct http_call_request r;
    struct error err;
    http_call_request_init(&r);
    buffer_printf(&r.url, "%s/", c->url);
    r.connect_timeout_ns = r.timeout_ns = PROBE_TIMEOUT;
    r.answer_max = 4096;
    int result = http_call_method(&r, "GET", 3, &err);
    if (result == 0)
        result = http_call_start(c->common->engine.calls, &r, on_probe, c, &c->call, &err);
    http_call_request_done(&r);
    if (result < 0)
        give_up(c, &err);
}

static int find_url(struct container *c, const struct json_value *root, struct error *err)
{
    const struct config *config = c->common->config;
    struct json_value settings;
    char place[64];
    bool port = config->docker_reach == CONFIG_DOCKER_PORT;
    if (!json_member(root, "NetworkSettings", &settings) || settings.type != JSON_OBJECT)
        return error_set(err, ERROR_UNAVAILABLE, "Docker Engine: the answer has no NetworkSettings");
    if (port ? !engine_port(&settings, place, sizeof place) : !engine_address(&settings, place, sizeof place))
        return error_set(err, ERROR_UNAVAILABLE,
                         "the container has no %s in the network %.60s (docker_network, "
                         "docker_reach)",
                         port ? "published port 80" : "address", config->docker_network);
    if (port)
        snprintf(c->url, sizeof c->url, "http://127.0.0.1:%s", place);
    else
        snprintf(c->url, sizeof c->url, strchr(place, ':') ? "http://[%s]:80" : "http://%s:80", place);
    return 0;
}

/* 0: it runs. Errors: it does not, or cannot be reached. */
static int read_inspection(struct container *c, const struct http_answer *answer, struct error *err)
{
    struct json_value root, state, value;
    int64_t code = 0;
    if (answer->status != 200) {
        engine_explain(answer, "looking at the container", err);
        err->code = ERROR_UNAVAILABLE;
        return -1;
    }
    if (json_scan(answer->body, answer->len, &root, err) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "State", &state) || state.type != JSON_OBJECT ||
        !json_member(&state, "Running", &value))
        return error_set(err, ERROR_UNAVAILABLE, "Docker Engine: the answer has no State.Running");
    if (value.type == JSON_TRUE)
        return find_url(c, &root, err);
    if (json_member(&state, "ExitCode", &value) && value.type == JSON_NUMBER)
        json_integer(&value, &code);
    bool killed = json_member(&state, "OOMKilled", &value) && value.type == JSON_TRUE;
    return error_set(err, ERROR_UNAVAILABLE, "the container has ended with exit status %lld%s",
                     (long long)code, killed ? ", out of memory" : "");
}

static void on_inspected(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    c->call = NULL;
    engine_note(&c->common->engine, answer);
    if (read_inspection(c, answer, &err) < 0)
        give_up(c, &err);
    else
        probe(c);
}

static void inspect(struct container *c)
{
    char path[160];
    snprintf(path, sizeof path, "/containers/%s/json", c->name);
    step(c, "GET", path, NULL, ENGINE_TIMEOUT, on_inspected);
}

void container_suspect(struct container *container)
{
    if (container->state != READY)
        return;
    container->state = CHECKING;
    container->look_ns = LOOK_FIRST;
    container->deadline_ns = clock_now_ns() + CHECK_LONGEST;
    inspect(container);
}

/* --- who uses it --- */

static void begin_when_wanted(void *data)
{
    struct container *c = data;
    if (c->state == ABSENT && c->waits)
        begin(c);
}

int container_await(struct container *c, container_ready ready, void *data, struct container_wait **ret_wait,
                    struct error *err)
{
    struct container_wait *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "out of memory");
    *w = (struct container_wait){.next = c->waits, .container = c, .ready = ready, .data = data};
    c->waits = w;
    *ret_wait = w;
    if (c->state == READY)
        loop_timer_set(c->common->loop, clock_now_ns(), tell_ready, c, NULL);
    else if (c->state == ABSENT)
        loop_timer_set(c->common->loop, clock_now_ns(), begin_when_wanted, c, NULL);
    return 0;
}

void container_wait_cancel(struct container_wait *wait)
{
    for (struct container_wait **link = &wait->container->waits; *link; link = &(*link)->next)
        if (*link == wait) {
            *link = wait->next;
            break;
        }
    free(wait);
}

const char *container_url(const struct container *container)
{
    return container->url;
}

struct http_calls *container_calls(struct container *container)
{
    return container->common->engine.calls;
}

bool container_has_script(const struct container *container, const char *path, uint64_t hash)
{
    const struct script *s = hash_get(&container->scripts, path, strlen(path));
    return s && s->hash == hash;
}

void container_set_script(struct container *container, const char *path, uint64_t hash)
{
    struct script *s = hash_get(&container->scripts, path, strlen(path));
    if (s) {
        s->hash = hash;
        return;
    }
    size_t len = strlen(path);
    if (!hash || !(s = malloc(sizeof *s + len + 1)))
        return; /* it is given again */
    s->hash = hash;
    memcpy(s->path, path, len + 1);
    if (hash_put(&container->scripts, s->path, len, s, NULL) < 0)
        free(s);
}

/* --- life --- */

struct container *container_new(struct containers_common *common, const char *image, size_t len)
{
    struct container *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->common = common;
    memcpy(c->image, image, len);
    snprintf(c->name, sizeof c->name, "triggerflow-%s-%016llx", common->owner,
             (unsigned long long)arena_name_hash(image, len));
    c->search = (struct image_search){.engine = &common->engine,
                                      .image = c->image,
                                      .pull = common->config->docker_pull,
                                      .pull_timeout_ns = (uint64_t)common->config->docker_pull_timeout_ns,
                                      .found = on_image,
                                      .data = c};
    hash_init(&c->scripts);
    return c;
}

const char *container_image(const struct container *container)
{
    return container->image;
}

bool container_halt(struct container *c)
{
    bool starting = c->state == STARTING;
    image_cancel(&c->search);
    stop_watching(c);
    if (c->call)
        http_call_cancel(c->call);
    c->call = NULL;
    loop_timer_cancel(c->common->loop, tell_ready, c);
    loop_timer_cancel(c->common->loop, begin_when_wanted, c);
    loop_timer_cancel(c->common->loop, create_again, c);
    loop_timer_cancel(c->common->loop, inspect_again, c);
    c->state = ABSENT;
    return starting;
}

void container_free(struct container *c)
{
    if (!c)
        return;
    container_halt(c);
    for (struct container_wait *w = c->waits, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    forget_scripts(c);
    hash_done(&c->scripts);
    free(c);
}
