#include "tests/support/source_bed.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "common/error.h"
#include "tests/support/http_load.h"

#define RUNNING "event=worker_state state=running"

/* --- what all cases share --- */

/* The one of the case that runs. A case that fails does not come to the end of its bed: the next one finds it
 * here. */
static struct source_bed *current;

static int start_storage(struct source_world *w)
{
    int r = storage_bed_start(&w->redis, "redis");
    if (r == 0)
        r = storage_bed_start(&w->files, "sqlite");
    if (r == 0 && (r = tcp_proxy_new(&w->storage)) == 0)
        tcp_proxy_target(w->storage, w->redis.redis.port);
    return r;
}

int source_world_start(struct source_world *world, const struct source_driver *driver)
{
    int port = 0;
    *world = (struct source_world){.driver = driver};
    int r = start_storage(world);
    if (r == 0 && !driver->under_supervisor && !driver->local)
        r = tcp_proxy_new(&world->broker);
    if (r == 0 && driver->start)
        r = driver->start(world->broker ? tcp_proxy_port(world->broker) : 0, &port);
    if (r == 0 && world->broker)
        tcp_proxy_target(world->broker, port);
    return r;
}

void source_world_done(struct source_world *world)
{
    source_bed_free(current);
    if (world->driver->stop)
        world->driver->stop();
    tcp_proxy_free(world->broker);
    tcp_proxy_free(world->storage);
    storage_bed_done(&world->redis);
    storage_bed_done(&world->files);
}

/* --- a bed --- */

static void make_reference(struct source_bed *bed)
{
    struct reference_trigger own[SOURCE_TRIGGERS];
    memcpy(own, source_triggers, sizeof source_triggers);
    for (size_t i = 0; i < SOURCE_TRIGGERS; i++)
        if (!strncmp(own[i].type, "e.", 2))
            own[i].unordered = own[i].unordered && !bed->driver->ordered;
    bed->reference = reference_new(&bed->workspace, own, SOURCE_TRIGGERS);
}

static void write_sources(const struct source_bed *bed, struct buffer *in, struct buffer *out)
{
    buffer_append_text(in, "{\"name\":\"in\",");
    bed->driver->document(&bed->queue, in);
    buffer_append_char(in, '}');
    buffer_printf(out,
                  "{\"name\":\"out\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
                  "\"port\":%d,\"stream\":\"out\",\"consume\":false}}",
                  bed->world->redis.redis.port);
}

static void store(struct source_bed *bed)
{
    BUFFER_AUTO in = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    struct buffer documents[SOURCE_TRIGGERS];
    struct storage_op ops[SOURCE_TRIGGERS + 2];
    struct error err = {.code = ERROR_NONE};
    write_sources(bed, &in, &out);
    ops[0] = (struct storage_op){STORAGE_EVENT_SOURCES, STORAGE_PUT, "in", 2, in.data, in.len, NULL, 0};
    ops[1] = (struct storage_op){STORAGE_EVENT_SOURCES, STORAGE_PUT, "out", 3, out.data, out.len, NULL, 0};
    for (size_t i = 0; i < SOURCE_TRIGGERS; i++) {
        documents[i] = (struct buffer)BUFFER_INIT;
        reference_document(bed->reference, i, &documents[i]);
        ops[2 + i] = (struct storage_op){STORAGE_TRIGGERS,
                                         STORAGE_PUT,
                                         source_triggers[i].id,
                                         strlen(source_triggers[i].id),
                                         documents[i].data,
                                         documents[i].len,
                                         NULL,
                                         0};
    }
    int r = bed->storage->type->create(bed->storage, "ws", bed->workspace.creation, ops, SOURCE_TRIGGERS + 2,
                                       &err);
    for (size_t i = 0; i < SOURCE_TRIGGERS; i++)
        buffer_done(&documents[i]);
    if (r)
        fail_msg("the workspace cannot be stored: %s", err.message);
}

static void write_config(const struct source_bed *bed)
{
    char path[96];
    snprintf(path, sizeof path, "%s/config.yaml", bed->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "triggerflow_controller: {port: 0}\ntrigger_api: {port: 0}\n"
                  "supervisor: {stop_timeout: 60s}\n");
    assert_int_equal(fclose(file), 0);
}

static void make_folder(struct source_bed *bed)
{
    char log[96];
    snprintf(bed->dir, sizeof bed->dir, "/tmp/triggerflow-source-XXXXXX");
    assert_non_null(mkdtemp(bed->dir));
    snprintf(bed->api, sizeof bed->api, "%s/run/api.sock", bed->dir);
    snprintf(bed->control, sizeof bed->control, "%s/run/control.sock", bed->dir);
    snprintf(bed->crash_file, sizeof bed->crash_file, "%s/crash", bed->dir);
    snprintf(log, sizeof log, "%s/log", bed->dir);
    process_init(&bed->process, log);
    write_config(bed);
}

struct source_bed *source_bed_new(struct source_world *world, const char *backend, bool supervised)
{
    if (current)
        source_bed_free(current);
    static unsigned cases;
    const struct source_driver *driver = world->driver;
    struct source_bed *bed = current = calloc(1, sizeof *bed);
    assert_non_null(bed);
    bed->world = world;
    bed->driver = driver;
    bed->at = strcmp(backend, "redis") ? &world->files : &world->redis;
    bed->supervised = supervised || driver->under_supervisor;
    make_folder(bed);
    process_program(bed->supervised ? "triggerflow-supervisor" : "triggerflow-worker", bed->program);
    snprintf(bed->queue.name, sizeof bed->queue.name, "%.30s-%u", driver->name, ++cases);
    bed->queue.api = bed->api;
    bed->queue.port = world->broker ? tcp_proxy_port(world->broker) : 0;
    if (world->broker)
        tcp_proxy_reset(world->broker);
    tcp_proxy_reset(world->storage);
    snprintf(bed->workspace.name, sizeof bed->workspace.name, "ws");
    snprintf(bed->workspace.creation, sizeof bed->workspace.creation, "17000%05u.25", cases);
    assert_int_equal(storage_bed_clear(&world->redis), 0);
    assert_int_equal(storage_bed_clear(&world->files), 0);
    assert_non_null(bed->storage = storage_bed_open(bed->at));
    make_reference(bed);
    if (driver->fresh)
        assert_int_equal(driver->fresh(&bed->queue), 0);
    store(bed);
    return bed;
}

void source_bed_free(struct source_bed *bed)
{
    char line[96];
    current = NULL;
    if (!bed)
        return;
    if (bed->publishing) {
        atomic_store(&bed->failed, true);
        pthread_join(bed->thread, NULL);
    }
    process_kill(&bed->process, SIGKILL);
    if (getenv("TRIGGERFLOW_KEEP"))
        process_show_log(&bed->process);
    storage_close(bed->storage);
    reference_free(bed->reference);
    snprintf(line, sizeof line, "rm -rf %s", bed->dir);
    if (system(line) != 0)
        perror(line);
    free(bed);
}

bool source_bed_crashes(struct source_bed *bed)
{
    return process_crash_program(bed->supervised ? "triggerflow-supervisor" : "triggerflow-worker",
                                 bed->program);
}

/* --- lives --- */

void source_bed_show(const struct source_bed *bed)
{
    if (bed->at == &bed->world->redis) {
        struct workspace ws = bed->workspace;
        ws.redis = &bed->world->redis.redis;
        workspace_dump(&ws, "out");
    }
    if (bed->world->broker)
        fprintf(stderr, "broker: %llu connections, %llu bytes\n",
                (unsigned long long)tcp_proxy_connections(bed->world->broker),
                (unsigned long long)tcp_proxy_bytes(bed->world->broker));
    process_show_log(&bed->process);
}

void source_bed_start(struct source_bed *bed, const char *const *settings)
{
    char place[128], crash[128], config[96], run[96];
    const char *environment[24] = {"TRIGGERFLOW_SHARDS=3", "TRIGGERFLOW_MAX_EVENT_BYTES=4MiB", place, crash};
    unsigned n = 4;
    if (bed->at == &bed->world->redis) {
        snprintf(place, sizeof place, "REDIS_PORT=%d", tcp_proxy_port(bed->world->storage));
        environment[n++] = "REDIS_HOST=127.0.0.1";
    } else {
        snprintf(place, sizeof place, "TRIGGERFLOW_STATE_DIRECTORY=%s/state", bed->at->dir);
        environment[n++] = "TRIGGERFLOW_STORAGE_BACKEND=sqlite";
    }
    snprintf(crash, sizeof crash, "TRIGGERFLOW_CRASH_FILE=%s", bed->crash_file);
    for (; settings && *settings && n < 23; settings++)
        environment[n++] = *settings;
    snprintf(config, sizeof config, "%s/config.yaml", bed->dir);
    snprintf(run, sizeof run, "%s/run", bed->dir);
    const char *supervisor[] = {bed->program, "start", "--config", config, "--run-directory", run, NULL};
    const char *worker[] = {bed->program, "ws", NULL};
    bed->running_before = process_log_count(&bed->process, RUNNING);
    assert_int_equal(process_start(&bed->process, bed->supervised ? supervisor : worker, environment), 0);
}

pid_t source_bed_worker(const struct source_bed *bed)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    struct json_object *pid = NULL;
    if (!bed->supervised)
        return bed->process.pid;
    if (http_load_call(bed->control, "GET", "/workspace/ws", NULL, &answer) != 200)
        return 0;
    struct json_object *root = json_tokener_parse(buffer_text(&answer));
    pid_t found = json_object_object_get_ex(root, "pid", &pid) ? json_object_get_int(pid) : 0;
    json_object_put(root);
    return found;
}

bool source_bed_running(const struct source_bed *bed)
{
    return process_log_count(&bed->process, RUNNING) > bed->running_before;
}

void source_bed_up(struct source_bed *bed)
{
    source_bed_start(bed, NULL);
    AWAIT_SOURCE(bed, source_bed_running(bed));
}

static void expect_alive(struct source_bed *bed)
{
    int status;
    if (!process_ended(&bed->process, &status))
        return;
    source_bed_show(bed);
    fail_msg("it has ended by itself, status %d", status);
}

void source_bed_stop(struct source_bed *bed)
{
    AWAIT_SOURCE(bed, source_bed_running(bed));
    expect_alive(bed);
    kill(bed->process.pid, SIGTERM);
    int status = process_wait(&bed->process, WAIT_DEADLINE_NS);
    if (status) {
        source_bed_show(bed);
        fail_msg("SIGTERM: status %d", status);
    }
}

/* Under one supervisor a worker is killed only once: it would wait ever longer before it starts it again. */
void source_bed_kill(struct source_bed *bed, const char *const *settings)
{
    pid_t pid = 0;
    expect_alive(bed);
    if (bed->supervised && bed->killed++ % 2 == 0) {
        AWAIT_SOURCE(bed, (pid = source_bed_worker(bed)) > 0);
        bed->running_before = process_log_count(&bed->process, RUNNING);
        kill(pid, SIGKILL);
        return;
    }
    process_kill(&bed->process, SIGKILL);
    bed->killed += !bed->supervised;
    source_bed_start(bed, settings);
}

void source_bed_crash_at(struct source_bed *bed, const char *point, unsigned count)
{
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.new", bed->crash_file);
    FILE *file = fopen(temporary, "w");
    assert_non_null(file);
    fprintf(file, "%s %u\n", point, count);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(temporary, bed->crash_file), 0);
}

void source_bed_call(const struct source_bed *bed, const char *method, const char *path)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    long status = http_load_call(bed->api, method, path, NULL, &answer);
    if (status != 200) {
        source_bed_show(bed);
        fail_msg("%s %s: %ld %s", method, path, status, buffer_text(&answer));
    }
}

/* --- what is stored --- */

static long long counter_in(const char *text)
{
    struct json_object *root = json_tokener_parse(text);
    struct json_object *at = NULL;
    long long n =
        json_object_object_get_ex(root, "context", &at) && json_object_object_get_ex(at, "counter", &at)
            ? json_object_get_int64(at)
            : -1;
    json_object_put(root);
    return n;
}

static int see_counter(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    char *text = strndup(value, len);
    (void)key, (void)key_len;
    *(long long *)data = text ? counter_in(text) : -1;
    free(text);
    return 0;
}

long long source_bed_counter(const struct source_bed *bed, const char *trigger)
{
    long long counter = -1;
    struct error err;
    if (bed->storage->type->get(bed->storage, "ws", STORAGE_TRIGGERS, &trigger, 1, see_counter, &counter,
                                &err) < 0)
        return -1;
    return counter;
}

static int see_one(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    (void)key, (void)key_len, (void)value, (void)len;
    ++*(size_t *)data;
    return 0;
}

static size_t fields(const struct source_bed *bed, enum storage_set set)
{
    size_t n = 0;
    struct error err;
    return bed->storage->type->load(bed->storage, "ws", set, see_one, &n, &err) < 0 ? SIZE_MAX : n;
}

bool source_bed_settled(const struct source_bed *bed)
{
    for (size_t i = 0; i < SOURCE_TRIGGERS; i++) {
        long long expected = reference_counter(bed->reference, source_triggers[i].id);
        if (expected > 0 && source_bed_counter(bed, source_triggers[i].id) < expected)
            return false;
    }
    return fields(bed, STORAGE_DEAD_LETTERS) >= reference_letters(bed->reference) &&
           fields(bed, STORAGE_OUTBOX) == 0 && fields(bed, STORAGE_INTERNAL) == 0;
}

void source_bed_settle(struct source_bed *bed)
{
    AWAIT_SOURCE(bed, (expect_alive(bed), source_bed_settled(bed)));
}

/* --- comparing --- */

struct looking {
    const struct source_bed *bed;
    enum storage_set set;
    struct facts facts;
};

static int see_field(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct looking *l = data;
    char *field = strndup(key, key_len);
    char *text = strndup(value, len);
    if (!field || !text)
        abort();
    reference_see(l->bed->reference, l->set, field, text, len, &l->facts);
    free(field);
    free(text);
    return 0;
}

static void look(const struct source_bed *bed, struct looking *l)
{
    static const enum storage_set sets[] = {STORAGE_TRIGGERS, STORAGE_CHECKPOINT, STORAGE_DEAD_LETTERS};
    struct error err;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        l->set = sets[i];
        if (bed->storage->type->load(bed->storage, "ws", l->set, see_field, l, &err) < 0)
            fail_msg("%s", err.message);
    }
    assert_int_equal(reference_see_stream(bed->reference, &bed->world->redis.redis, "out", "out", &l->facts),
                     0);
}

static void compare(struct source_bed *bed)
{
    struct looking actual = {.bed = bed};
    struct facts expected = {0};
    look(bed, &actual);
    reference_facts(bed->reference, &expected);
    size_t differences = facts_compare(&expected, &actual.facts);
    facts_done(&expected);
    facts_done(&actual.facts);
    if (differences) {
        source_bed_show(bed);
        fail_msg("%s: %zu differences", bed->driver->name, differences);
    }
}

static struct publication last_event(unsigned i, struct source_text *text)
{
    snprintf(text->id, sizeof text->id, "end-%u", i);
    return (struct publication){.id = text->id, .type = "e.end", .subject = "end", .data = "{}"};
}

/* What comes again and is dropped has to be acknowledged, too, although nothing else follows. */
static void settle_with_broker(struct source_bed *bed)
{
    source_bed_settle(bed);
    if (bed->driver->unacknowledged)
        AWAIT_SOURCE(bed, bed->driver->unacknowledged(&bed->queue) == 0);
}

void source_bed_finish(struct source_bed *bed)
{
    const struct source_driver *d = bed->driver;
    settle_with_broker(bed);
    source_bed_stop(bed);
    compare(bed);
    source_bed_up(bed);
    source_bed_publish(bed, last_event, 1);
    settle_with_broker(bed);
    source_bed_stop(bed);
    compare(bed);
    printf("%s: %zu events, %zu firings, %zu dead letters: exact\n", d->name,
           reference_events(bed->reference), reference_firings(bed->reference),
           reference_letters(bed->reference));
}
