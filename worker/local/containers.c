#include "worker/local/containers.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/local/engine.h"
#include "worker/executor/http_call.h"
#include "worker/worker.h"

#define PULL_TIMEOUT (600 * CLOCK_S)
#define START_LONGEST (60 * CLOCK_S) /* from its creation to its first answer */
#define CHECK_LONGEST (5 * CLOCK_S)  /* for an answer when it is looked at */
#define PROBE_TIMEOUT CLOCK_S
#define LOOK_FIRST (10 * CLOCK_MS) /* between two looks; doubling */
#define LOOK_LONGEST (250 * CLOCK_MS)
#define SWEEP_AGAIN (5 * CLOCK_S)
#define NAME_MAX_BYTES 64

enum state { ABSENT, STARTING, READY, CHECKING, REMOVING };

struct container_wait {
    struct container_wait *next;
    struct container *container;
    container_ready ready;
    void *data;
};

struct container {
    struct containers *all;
    struct container *next;
    char image[CONTAINER_IMAGE_MAX + 1];
    char name[NAME_MAX_BYTES];
    char url[96];
    enum state state;
    bool pulled;
    bool again; /* it is removed to be started anew */
    uint64_t deadline_ns;
    uint64_t look_ns;
    struct http_call *call;
    struct container_wait *waits;
    struct hash_table scripts; /* path -> struct script */
    struct error why;          /* while it is removed: why it failed */
};

struct script {
    uint64_t hash;
    char path[];
};

struct containers {
    struct worker *worker;
    struct loop *loop;
    struct engine engine;
    char owner[17];
    struct container *list;
    unsigned n;
    struct http_call *sweep;
    unsigned removing; /* calls of sweep and close under way */
};

/* --- a container's steps --- */

static void look_for_image(struct container *c);
static void inspect(struct container *c);
static void create(struct container *c);
static void give_up(struct container *c, const struct error *why);

static void step(struct container *c, const char *method, const char *path, const struct buffer *body,
                 uint64_t timeout_ns, http_call_done done)
{
    struct error err;
    if (engine_ask(&c->all->engine, method, path, body, timeout_ns, done, c, &c->call, &err) < 0)
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
    c->pulled = false;
    c->again = false;
    c->look_ns = LOOK_FIRST;
    c->deadline_ns = clock_now_ns() + START_LONGEST;
    forget_scripts(c);
    look_for_image(c);
}

static void on_removed(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    c->call = NULL;
    engine_note(&c->all->engine, answer);
    c->state = ABSENT;
    if (c->again && answer->status)
        begin(c);
    else
        tell(c, &c->why);
}

/* Removes it; then, again: from the beginning. */
static void give_up_or_again(struct container *c, const struct error *why, bool again)
{
    char path[160];
    struct error err;
    log_warn("container", LOG_STR("image", c->image), LOG_STR("error", why->message));
    c->why = *why;
    c->again = again;
    c->state = REMOVING;
    snprintf(path, sizeof path, "/containers/%s?force=1&v=1", c->name);
    if (engine_ask(&c->all->engine, "DELETE", path, NULL, ENGINE_TIMEOUT, on_removed, c, &c->call, &err) == 0)
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
    loop_timer_set(c->all->loop, clock_now_ns() + c->look_ns, callback, c, NULL);
    c->look_ns = c->look_ns * 2 < LOOK_LONGEST ? c->look_ns * 2 : LOOK_LONGEST;
}

/* --- its image --- */

/* The engine answers with its progress, one JSON text a line; a failure is in the last one. */
static void find_pull_error(const struct http_answer *answer, struct error *err)
{
    const char *end = answer->body + answer->len;
    for (const char *at = answer->body; at < end;) {
        const char *feed = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((feed ? feed : end) - at);
        struct json_value root, message;
        if (json_scan(at, len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
            json_member(&root, "error", &message) && message.type == JSON_STRING)
            error_set(err, ERROR_UNAVAILABLE, "the image cannot be pulled: %.*s",
                      (int)(message.len < 160 ? message.len : 160), message.text);
        at += len + 1;
    }
}

static void on_pulled(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err = {.code = ERROR_NONE};
    c->call = NULL;
    c->pulled = true;
    engine_note(&c->all->engine, answer);
    if (answer->status != 200)
        engine_explain(answer, "pulling the image", &err);
    else
        find_pull_error(answer, &err);
    if (err.code != ERROR_NONE) {
        err.code = ERROR_UNAVAILABLE; /* the registry may answer later */
        give_up(c, &err);
        return;
    }
    c->deadline_ns = clock_now_ns() + START_LONGEST;
    look_for_image(c);
}

static void pull(struct container *c)
{
    char path[CONTAINER_IMAGE_MAX + 64];
    const char *slash = strrchr(c->image, '/');
    bool tagged = strpbrk(slash ? slash : c->image, ":@");
    snprintf(path, sizeof path, "/images/create?fromImage=%s%s", c->image, tagged ? "" : "&tag=latest");
    log_info("container_pull", LOG_STR("image", c->image));
    step(c, "POST", path, NULL, PULL_TIMEOUT, on_pulled);
}

static void on_image(void *data, const struct http_answer *answer)
{
    struct container *c = data;
    struct error err;
    c->call = NULL;
    engine_note(&c->all->engine, answer);
    if (answer->status == 200) {
        create(c);
    } else if (answer->status == 404 && c->all->worker->config->docker_pull && !c->pulled) {
        pull(c);
    } else {
        engine_explain(answer, "looking for the image", &err);
        give_up(c, &err);
    }
}

static void look_for_image(struct container *c)
{
    char path[CONTAINER_IMAGE_MAX + 32];
    snprintf(path, sizeof path, "/images/%s/json", c->image);
    step(c, "GET", path, NULL, ENGINE_TIMEOUT, on_image);
}

/* --- its creation --- */

static void describe(const struct container *c, struct buffer *out)
{
    const struct containers *all = c->all;
    const struct config *config = all->worker->config;
    const char *workspace = all->worker->workspace;
    long long memory = (long long)config->docker_memory;
    buffer_append_text(out, "{\"Image\":");
    buffer_append_json(out, c->image, strlen(c->image));
    buffer_printf(
        out, ",\"Env\":[\"TRIGGERFLOW_WORKSPACE=%s\"],\"StopTimeout\":1,\"ExposedPorts\":{\"80/tcp\":{}}",
        workspace);
    buffer_printf(out,
                  ",\"Labels\":{\"triggerflow.owner\":\"%s\",\"triggerflow.life\":\"%s\","
                  "\"triggerflow.workspace\":\"%s\"}",
                  all->owner, all->worker->writer, workspace);
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
    engine_note(&c->all->engine, answer);
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
    engine_note(&c->all->engine, answer);
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
    engine_note(&c->all->engine, answer);
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
    snprintf(path, sizeof path, "/containers/create?name=%s", c->name);
    step(c, "POST", path, &body, ENGINE_TIMEOUT, on_created);
}

/* --- whether it runs and answers --- */

static void inspect_again(void *data)
{
    inspect(data);
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
        result = http_call_start(c->all->engine.calls, &r, on_probe, c, &c->call, &err);
    http_call_request_done(&r);
    if (result < 0)
        give_up(c, &err);
}

static int find_url(struct container *c, const struct json_value *root, struct error *err)
{
    const struct config *config = c->all->worker->config;
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
    engine_note(&c->all->engine, answer);
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

int container_check_image(const char *image, size_t len, struct error *err)
{
    bool wrong = !len || len > CONTAINER_IMAGE_MAX || !isalnum((unsigned char)*image);
    for (size_t i = 0; i < len && !wrong; i++)
        wrong = !isalnum((unsigned char)image[i]) && !strchr("._-/:@", image[i]);
    for (size_t i = 1; i < len && !wrong; i++)
        wrong = (image[i] == '.' || image[i] == '/') && image[i - 1] == image[i];
    return wrong ? error_set(err, ERROR_INVALID, "%.*s is no name of an image", (int)(len < 80 ? len : 80),
                             image)
                 : 0;
}

static struct container *find(struct containers *all, const char *image, size_t len)
{
    for (struct container *c = all->list; c; c = c->next)
        if (strlen(c->image) == len && !memcmp(c->image, image, len))
            return c;
    return NULL;
}

static struct container *add(struct containers *all, const char *image, size_t len, struct error *err)
{
    if (all->n == CONTAINERS_MAX) {
        error_set(err, ERROR_LIMIT, "containers of more than %d images", CONTAINERS_MAX);
        return NULL;
    }
    struct container *c = calloc(1, sizeof *c);
    if (!c) {
        error_set(err, ERROR_MEMORY, "out of memory");
        return NULL;
    }
    c->all = all;
    memcpy(c->image, image, len);
    snprintf(c->name, sizeof c->name, "triggerflow-%s-%016llx", all->owner,
             (unsigned long long)arena_name_hash(image, len));
    hash_init(&c->scripts);
    c->next = all->list;
    all->list = c;
    all->n++;
    return c;
}

static void begin_when_wanted(void *data)
{
    struct container *c = data;
    if (c->state == ABSENT && c->waits)
        begin(c);
}

int container_await(struct containers *containers, const char *image, size_t len, container_ready ready,
                    void *data, struct container_wait **ret_wait, struct error *err)
{
    if (container_check_image(image, len, err) < 0)
        return -1;
    struct container *c = find(containers, image, len);
    if (!c && !(c = add(containers, image, len, err)))
        return -1;
    struct container_wait *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "out of memory");
    *w = (struct container_wait){.next = c->waits, .container = c, .ready = ready, .data = data};
    c->waits = w;
    *ret_wait = w;
    if (c->state == READY)
        loop_timer_set(containers->loop, clock_now_ns(), tell_ready, c, NULL);
    else if (c->state == ABSENT)
        loop_timer_set(containers->loop, clock_now_ns(), begin_when_wanted, c, NULL);
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
    return container->all->engine.calls;
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

/* --- what is left of earlier lives, and of this one --- */

static void on_swept(void *data, const struct http_answer *answer)
{
    struct containers *all = data;
    (void)answer;
    all->removing--;
}

static void remove_by_name(struct containers *all, const char *name)
{
    char path[160];
    struct error err;
    snprintf(path, sizeof path, "/containers/%s?force=1&v=1", name);
    if (engine_ask(&all->engine, "DELETE", path, NULL, ENGINE_TIMEOUT, on_swept, all, NULL, &err) == 0)
        all->removing++;
}

static void sweep(void *data);

static void on_listed(void *data, const struct http_answer *answer)
{
    struct containers *all = data;
    struct json_value root, name, container, labels;
    struct json_iter iter;
    char id[80];
    char life[STORAGE_WRITER_MAX];
    all->sweep = NULL;
    engine_note(&all->engine, answer);
    if (answer->status != 200 || json_scan(answer->body, answer->len, &root, NULL) < 0 ||
        root.type != JSON_ARRAY) {
        loop_timer_set(all->loop, clock_now_ns() + SWEEP_AGAIN, sweep, all, NULL);
        return;
    }
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &container)) {
        if (container.type != JSON_OBJECT || !engine_text(&container, "Id", id, sizeof id) ||
            !json_member(&container, "Labels", &labels) || labels.type != JSON_OBJECT)
            continue;
        if (engine_text(&labels, "triggerflow.life", life, sizeof life) && !strcmp(life, all->worker->writer))
            continue;
        log_info("container_left", LOG_STR("container", id));
        remove_by_name(all, id);
    }
}

static void sweep(void *data)
{
    struct containers *all = data;
    char path[160];
    struct error err;
    /* {"label":["triggerflow.owner=..."]} */
    snprintf(
        path, sizeof path,
        "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22triggerflow.owner%%3D%s%%22%%5D%%7D",
        all->owner);
    if (engine_ask(&all->engine, "GET", path, NULL, ENGINE_TIMEOUT, on_listed, all, &all->sweep, &err) < 0)
        log_warn("container_sweep", LOG_STR("error", err.message));
}

void containers_begin(struct containers *containers)
{
    if (*containers->worker->config->docker_images)
        sweep(containers);
}

static void halt(struct container *c)
{
    if (c->call)
        http_call_cancel(c->call);
    c->call = NULL;
    loop_timer_cancel(c->all->loop, tell_ready, c);
    loop_timer_cancel(c->all->loop, begin_when_wanted, c);
    loop_timer_cancel(c->all->loop, create_again, c);
    loop_timer_cancel(c->all->loop, inspect_again, c);
}

void containers_close(struct containers *containers, uint64_t deadline_ns)
{
    struct error err;
    if (!containers)
        return;
    for (struct container *c = containers->list; c; c = c->next) {
        if (c->state == ABSENT)
            continue;
        halt(c);
        c->state = ABSENT;
        remove_by_name(containers, c->name);
    }
    for (uint64_t now; containers->removing && (now = clock_now_ns()) < deadline_ns;)
        if (loop_run_once(containers->loop, deadline_ns - now, &err) < 0)
            return;
}

/* --- life --- */

int containers_new(struct worker *worker, struct loop *loop, struct containers **ret_containers,
                   struct error *err)
{
    struct containers *all = calloc(1, sizeof *all);
    if (!all)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (http_calls_new(loop, false, "", &all->engine.calls, err) < 0) {
        free(all);
        return -1;
    }
    all->worker = worker;
    all->loop = loop;
    all->engine.socket = worker->config->docker_socket;
    all->engine.report = worker->report;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, worker->workspace, strlen(worker->workspace) + 1);
    XXH3_64bits_update(&state, worker->creation, strlen(worker->creation));
    snprintf(all->owner, sizeof all->owner, "%016llx", (unsigned long long)XXH3_64bits_digest(&state));
    *ret_containers = all;
    return 0;
}

void containers_free(struct containers *containers)
{
    if (!containers)
        return;
    loop_timer_cancel(containers->loop, sweep, containers);
    while (containers->list) {
        struct container *c = containers->list;
        containers->list = c->next;
        halt(c);
        for (struct container_wait *w = c->waits, *next; w; w = next) {
            next = w->next;
            free(w);
        }
        forget_scripts(c);
        hash_done(&c->scripts);
        free(c);
    }
    http_calls_free(containers->engine.calls);
    free(containers);
}
