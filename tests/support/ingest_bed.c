#include "tests/support/ingest_bed.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "tests/support/wait.h"
#include "worker/worker.h"

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%s", err->message);
}

static struct storage *open_storage(const struct ingest_bed *bed)
{
    struct storage *storage = storage_bed_open(bed->storage);
    assert_non_null(storage);
    return storage;
}

void ingest_bed_init(struct ingest_bed *bed, struct storage_bed *storage)
{
    static const char source[] = "{\"name\":\"http\",\"class\":\"HTTPEventSource\",\"parameters\":{}}";
    static const char trigger[] =
        "{\"id\":\"count\",\"uuid\":\"u\",\"workspace\":\"ws\",\"transient\":false,"
        "\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},"
        "\"context\":{\"join\":1000000000,\"counter\":0},"
        "\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"t\",\"subject\":\"s\"}]}";
    const struct storage_op ops[] = {
        {STORAGE_EVENT_SOURCES, STORAGE_PUT, "http", 4, source, sizeof source - 1, NULL, 0},
        {STORAGE_TRIGGERS, STORAGE_PUT, "count", 5, trigger, sizeof trigger - 1, NULL, 0},
    };
    struct error err;
    *bed = (struct ingest_bed){.storage = storage, .socket = -1};
    bed->status = strdup("");
    bed->failed = strdup("");
    snprintf(bed->log, sizeof bed->log, "/tmp/triggerflow-ingest-%d.log", (int)getpid());
    snprintf(bed->crash, sizeof bed->crash, "/tmp/triggerflow-ingest-%d.crash", (int)getpid());
    unlink(bed->log);
    assert_int_equal(storage_bed_clear(storage), 0);
    struct storage *s = open_storage(bed);
    int r = s->type->create(s, "ws", "1700000000.5", ops, 2, &err);
    must(r, &err);
    assert_int_equal(r, 0);
    storage_close(s);
    must(arena_create(&bed->arena_fd, &err), &err);
    must(arena_map(bed->arena_fd, &bed->arena, &err), &err);
    bed->ingest_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bed->durable_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(bed->ingest_fd >= 0 && bed->durable_fd >= 0);
}

void ingest_bed_done(struct ingest_bed *bed)
{
    ingest_bed_kill(bed);
    arena_unmap(bed->arena);
    close(bed->arena_fd);
    close(bed->ingest_fd);
    close(bed->durable_fd);
    unlink(bed->log);
    unlink(bed->crash);
    free(bed->status);
    free(bed->failed);
}

void ingest_bed_show(const struct ingest_bed *bed)
{
    char line[2000];
    FILE *file = fopen(bed->log, "r");
    while (file && fgets(line, sizeof line, file))
        fputs(line, stderr);
    if (file)
        fclose(file);
    fprintf(stderr, "status %s\nfailed %s\n", bed->status, bed->failed);
}

/* --- lives --- */

static _Noreturn void live(const struct ingest_bed *bed, int status_fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open(bed->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    dup2(log, STDERR_FILENO);
    setenv("TRIGGERFLOW_CRASH_FILE", bed->crash, 1);
    log_setup(LOG_LEVEL_DEBUG, false, "worker", "ws");
    struct worker_options options = {.config = &bed->storage->config,
                                     .workspace = "ws",
                                     .arena_fd = bed->arena_fd,
                                     .status_fd = status_fd,
                                     .ingest_fd = bed->ingest_fd,
                                     .durable_fd = bed->durable_fd,
                                     .generation = bed->generation};
    _exit(worker_run(&options));
}

static void write_crash(const char *path, const char *crash)
{
    unlink(path);
    FILE *file = crash ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%s\n", crash);
        fclose(file);
    }
}

void ingest_bed_start(struct ingest_bed *bed, const char *crash)
{
    int fds[2];
    struct error err;
    ingest_bed_kill(bed);
    write_crash(bed->crash, crash);
    must(ipc_pair(fds, &err), &err);
    bed->ready = false;
    arena_reset(bed->arena, ++bed->generation);
    ring_attach_producer(&bed->ring, arena_ingest_ring(bed->arena), ARENA_INGEST_BYTES);
    fflush(NULL);
    bed->pid = fork();
    assert_true(bed->pid >= 0);
    if (bed->pid == 0) {
        close(fds[0]);
        live(bed, fds[1]);
    }
    close(fds[1]);
    bed->socket = fds[0];
    WAIT_ELSE(!ingest_bed_alive(bed) || (bed->ready && (crash || atomic_load(&bed->arena->worker.ingest))),
              ingest_bed_show(bed));
    assert_true(crash || bed->ready);
}

void ingest_bed_kill(struct ingest_bed *bed)
{
    if (bed->pid > 0) {
        kill(bed->pid, SIGKILL);
        waitpid(bed->pid, NULL, 0);
    }
    bed->pid = 0;
    if (bed->socket >= 0)
        close(bed->socket);
    bed->socket = -1;
}

void ingest_bed_stop(struct ingest_bed *bed)
{
    static const char stop[] = "{\"message\":\"stop\"}";
    int status;
    ipc_send(bed->socket, stop, sizeof stop - 1, NULL, 0, NULL);
    WAIT_ELSE(!ingest_bed_alive(bed), ingest_bed_show(bed));
    assert_int_equal(waitpid(bed->pid, &status, 0), bed->pid);
    bed->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        ingest_bed_show(bed);
        fail_msg("the worker ends with %x", (unsigned)status);
    }
    ingest_bed_kill(bed);
}

static void hear(struct ingest_bed *bed, const char *text, size_t len)
{
    struct json_value root, kind, count;
    int64_t number;
    assert_int_equal(json_scan(text, len, &root, NULL), 0);
    assert_true(json_member(&root, "message", &kind));
    bed->ready |= json_equals(&kind, "ready", 5);
    char **keep = json_equals(&kind, "status", 6)   ? &bed->status
                  : json_equals(&kind, "failed", 6) ? &bed->failed
                                                    : NULL;
    if (keep) {
        free(*keep);
        *keep = strndup(text, len);
        assert_non_null(*keep);
    }
    if (json_equals(&kind, "answer", 6))
        bed->outcome = json_member(&root, "count", &count) && json_integer(&count, &number) ? number : -1;
}

bool ingest_bed_alive(struct ingest_bed *bed)
{
    static char packet[IPC_MAX];
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    size_t len;
    int r;
    struct error err;
    while ((r = ipc_receive(bed->socket, 0, packet, &len, fds, &n_fds, &err)) == 0)
        hear(bed, packet, len);
    return r == IPC_AGAIN;
}

void ingest_bed_ask(struct ingest_bed *bed, const char *message)
{
    char text[200];
    int len = snprintf(text, sizeof text, "{\"message\":\"%s\",\"id\":%lld}", message, ++bed->id);
    bed->outcome = -2;
    assert_int_equal(ipc_send(bed->socket, text, (size_t)len, NULL, 0, NULL), 0);
    WAIT_ELSE(!ingest_bed_alive(bed) || bed->outcome != -2, ingest_bed_show(bed));
    assert_true(bed->outcome >= 0);
}

/* --- publishing --- */

static void set(struct cloudevent *event, enum cloudevent_attribute attribute, const char *text)
{
    event->attribute[attribute] = (struct cloudevent_span){text, (uint32_t)strlen(text)};
}

struct arena_ingest_record *ingest_bed_publish(struct ingest_bed *bed, const char *name, unsigned first,
                                               unsigned n, size_t bytes)
{
    struct cloudevent event;
    char id[64];
    char *data = calloc(1, bytes + 3);
    size_t size = sizeof(struct arena_ingest_record);
    assert_non_null(data);
    memset(data, 'x', bytes + 2);
    data[0] = data[bytes + 1] = '"';
    cloudevent_clear(&event);
    set(&event, CE_SPECVERSION, "1.0");
    set(&event, CE_SOURCE, "test");
    set(&event, CE_TYPE, "t");
    set(&event, CE_SUBJECT, "s");
    set(&event, CE_DATA, data);
    event.data = CE_DATA_JSON;
    for (unsigned i = 0; i < n; i++) {
        snprintf(id, sizeof id, "%s-%u", name, first + i);
        set(&event, CE_ID, id);
        size += cloudevent_packed_size(&event);
    }
    struct arena_ingest_record *record = ring_reserve(&bed->ring, (uint32_t)size, 0, false);
    char *at = (char *)(record + 1);
    if (record)
        *record = (struct arena_ingest_record){.n_events = n};
    for (unsigned i = 0; record && i < n; i++) {
        snprintf(id, sizeof id, "%s-%u", name, first + i);
        set(&event, CE_ID, id);
        cloudevent_pack(&event, at);
        at += cloudevent_packed_size(&event);
    }
    free(data);
    if (!record)
        return NULL;
    ring_publish(&bed->ring);
    uint64_t one = 1;
    assert_int_equal(write(bed->ingest_fd, &one, sizeof one), sizeof one);
    return record;
}

uint32_t ingest_bed_answer(const struct arena_ingest_record *record)
{
    return atomic_load_explicit(&record->answer, memory_order_acquire);
}

/* --- what is stored --- */

static int see_counter(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct json_value root, context, counter;
    int64_t number;
    (void)key, (void)key_len;
    if (json_scan(value, len, &root, NULL) == 0 && json_member(&root, "context", &context) &&
        json_member(&context, "counter", &counter) && json_integer(&counter, &number))
        *(long long *)data = number;
    return 0;
}

long long ingest_bed_counter(const struct ingest_bed *bed)
{
    const char *key = "count";
    long long counter = -1;
    struct error err;
    struct storage *s = open_storage(bed);
    must(s->type->get(s, "ws", STORAGE_TRIGGERS, &key, 1, see_counter, &counter, &err), &err);
    storage_close(s);
    return counter;
}

struct counting {
    const char *containing;
    unsigned n;
};

static int see_field(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct counting *c = data;
    (void)key, (void)key_len;
    c->n += memmem(value, len, c->containing, strlen(c->containing)) != NULL;
    return 0;
}

unsigned ingest_bed_count(const struct ingest_bed *bed, enum storage_set set_, const char *containing)
{
    struct counting counting = {.containing = containing};
    struct error err;
    struct storage *s = open_storage(bed);
    must(s->type->load(s, "ws", set_, see_field, &counting, &err), &err);
    storage_close(s);
    return counting.n;
}

static int see_group(void *data, const struct storage_log_group *group)
{
    (void)group;
    ++*(unsigned *)data;
    return 0;
}

unsigned ingest_bed_groups(const struct ingest_bed *bed)
{
    unsigned n = 0;
    struct error err;
    struct storage *s = open_storage(bed);
    must(s->type->log_read(s, "ws", 0, SIZE_MAX, see_group, &n, &err), &err);
    storage_close(s);
    return n;
}

static void edit(const struct ingest_bed *bed, const struct storage_op *op)
{
    int result;
    struct error err;
    struct storage *s = open_storage(bed);
    must(s->type->edit(s, "ws", op, 1, &result, &err), &err);
    assert_int_equal(result, 0);
    storage_close(s);
}

void ingest_bed_put(const struct ingest_bed *bed, enum storage_set set_, const char *key,
                    const char *document)
{
    edit(bed, &(struct storage_op){set_, STORAGE_PUT, key, strlen(key), document, strlen(document), NULL, 0});
}

void ingest_bed_delete(const struct ingest_bed *bed, enum storage_set set_, const char *key)
{
    edit(bed, &(struct storage_op){set_, STORAGE_DELETE, key, strlen(key), NULL, 0, NULL, 0});
}
