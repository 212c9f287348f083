/* common/storage, on every back end: creating, editing and removing workspaces, users, and the event log. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "tests/support/storage_bed.h"

static struct storage_bed bed; /* cleared before each test */
static struct error err;

/* ---- helpers ---- */

static struct storage *connection(void)
{
    struct storage *storage = storage_bed_open(&bed);
    assert_non_null(storage);
    memset(&err, 0, sizeof err);
    return storage;
}

#define ASSERT_RC(call, expected) assert_rc(call, expected, #call, __LINE__)
static void assert_rc(int rc, int expected, const char *call, int line)
{
    if (rc != expected)
        fail_msg("line %d: %s is %d, not %d: %s", line, call, rc, expected, rc < 0 ? err.message : "");
}

static void create(struct storage *storage, const char *workspace, const char *creation)
{
    ASSERT_RC(storage->type->create(storage, workspace, creation, NULL, 0, &err), 0);
}

static struct storage_claim claim(struct storage *storage, const char *workspace, const char *writer)
{
    struct storage_claim found = {.epoch = 0};
    ASSERT_RC(storage->type->claim(storage, workspace, writer, &found, &err), 0);
    return found;
}

static int commit(struct storage *storage, const char *workspace, uint64_t epoch, const char *creation,
                  uint64_t log_consumed, const struct storage_op *ops, size_t n)
{
    struct storage_commit commit = {workspace, creation, "me", epoch, ops, n, log_consumed};
    return storage->type->commit(storage, &commit, &err);
}

/* Fields as "key=value key=value ", sorted. */
struct fields {
    char *text[32];
    size_t n;
};

static int collect(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct fields *fields = data;
    assert_true(fields->n < 32);
    assert_true(asprintf(&fields->text[fields->n++], "%.*s=%.*s", (int)key_len, key, (int)value_len, value) >
                0);
    return 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void assert_fields(struct fields *fields, const char *expected, int line)
{
    BUFFER_AUTO joined = BUFFER_INIT;
    qsort(fields->text, fields->n, sizeof fields->text[0], compare);
    for (size_t i = 0; i < fields->n; i++) {
        buffer_printf(&joined, "%s%s", i ? " " : "", fields->text[i]);
        free(fields->text[i]);
    }
    if (strcmp(buffer_text(&joined), expected) != 0)
        fail_msg("line %d: there is \"%s\", not \"%s\"", line, buffer_text(&joined), expected);
}

#define ASSERT_SET(storage, workspace, set, expected) assert_set(storage, workspace, set, expected, __LINE__)
static void assert_set(struct storage *storage, const char *workspace, enum storage_set set,
                       const char *expected, int line)
{
    struct fields fields = {.n = 0};
    assert_rc(storage->type->load(storage, workspace, set, collect, &fields, &err), 0, "load", line);
    assert_fields(&fields, expected, line);
}

#define ASSERT_WORKSPACES(storage, expected)                                       \
    do {                                                                           \
        struct fields there = {.n = 0};                                            \
        ASSERT_RC((storage)->type->workspaces(storage, collect, &there, &err), 0); \
        assert_fields(&there, expected, __LINE__);                                 \
    } while (0)

/* ---- create and remove ---- */

static void test_create(void **state)
{
    (void)state;
    struct storage *storage = connection();
    struct storage_op ops[] = {storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "t", "{}", NULL),
                               storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_PUT_NEW, "s", "first", NULL),
                               storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_PUT_NEW, "s", "second", NULL),
                               storage_op_of(STORAGE_GLOBAL_CONTEXT, STORAGE_PUT, "", "", NULL)};
    ASSERT_RC(storage->type->create(storage, "w", "100.5", ops, 4, &err), 0);
    ASSERT_RC(storage->type->workspace_exists(storage, "w", &err), 0);
    ASSERT_WORKSPACES(storage, "w=100.5");
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "t={}");
    ASSERT_SET(storage, "w", STORAGE_EVENT_SOURCES, "s=first");
    ASSERT_SET(storage, "w", STORAGE_GLOBAL_CONTEXT, "=");
    ops[0].value = "[]";
    ASSERT_RC(storage->type->create(storage, "w", "200.5", ops, 4, &err), STORAGE_EXISTS);
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "t={}");
    ASSERT_WORKSPACES(storage, "w=100.5");
    assert_string_equal(claim(storage, "w", "me").creation, "100.5");
    ASSERT_RC(storage->type->create(storage, "no/name", "1", NULL, 0, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    storage_close(storage);
}

static int count_groups(void *data, const struct storage_log_group *group)
{
    (void)group;
    ++*(int *)data;
    return 0;
}

static int groups_kept(struct storage *storage, const char *workspace)
{
    int events = 0;
    int ids = 0;
    ASSERT_RC(storage->type->log_read(storage, workspace, 0, SIZE_MAX, count_groups, &events, &err), 0);
    ASSERT_RC(storage->type->log_ids(storage, workspace, count_groups, &ids, &err), 0);
    return events * 100 + ids;
}

/* Puts a field into each set, and a group into the log. */
static void fill(struct storage *storage, const char *workspace, const char *creation)
{
    struct storage_op ops[STORAGE_SETS];
    for (int set = 0; set < STORAGE_SETS; set++)
        ops[set] = storage_op_of((enum storage_set)set, STORAGE_PUT, "k", "v", NULL);
    create(storage, workspace, creation);
    claim(storage, workspace, "me");
    ASSERT_RC(commit(storage, workspace, 1, creation, 0, ops, STORAGE_SETS), 0);
    struct storage_log_group group = {1, "events", 6, "ids", 3};
    ASSERT_RC(storage->type->log_append(storage, workspace, "me", &group, 0, &err), 0);
}

static void test_remove(void **state)
{
    (void)state;
    static const char *const neighbours[] = {"a-b", "a-triggers", "aa", "b"};
    struct storage *storage = connection();
    fill(storage, "a", "100.5");
    for (size_t i = 0; i < 4; i++)
        fill(storage, neighbours[i], "1");
    ASSERT_RC(storage->type->remove(storage, "a", &err), 0);
    ASSERT_RC(storage->type->workspace_exists(storage, "a", &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->remove(storage, "a", &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->remove(storage, "never", &err), STORAGE_ABSENT);
    ASSERT_WORKSPACES(storage, "a-b=1 a-triggers=1 aa=1 b=1");
    for (size_t i = 0; i < 4; i++) {
        for (int set = 0; set < STORAGE_SETS; set++)
            if (set != STORAGE_CHECKPOINT)
                ASSERT_SET(storage, neighbours[i], (enum storage_set)set, "k=v");
        assert_int_equal(claim(storage, neighbours[i], "me").epoch, 1);
        assert_int_equal(groups_kept(storage, neighbours[i]), 101);
    }
    create(storage, "a", "200.5");
    for (int set = 0; set < STORAGE_SETS; set++)
        ASSERT_SET(storage, "a", (enum storage_set)set, "");
    assert_int_equal(groups_kept(storage, "a"), 0);
    assert_int_equal(claim(storage, "a", "me").epoch, 0);
    storage_close(storage);
}

/* A worker of a workspace that was removed, and one of its namesake. */
static void test_removed_under_worker(void **state)
{
    (void)state;
    struct storage *worker = connection();
    struct storage *api = connection();
    struct storage_log_group group = {2, "x", 1, "i", 1};
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "late", "{}", NULL);
    fill(worker, "w", "100.5");
    ASSERT_RC(api->type->remove(api, "w", &err), 0);
    ASSERT_RC(commit(worker, "w", 2, "100.5", 0, &put, 1), STORAGE_FENCED);
    ASSERT_RC(worker->type->log_append(worker, "w", "me", &group, 0, &err), STORAGE_FENCED);
    create(api, "w", "200.5");
    ASSERT_RC(commit(worker, "w", 2, "100.5", 0, &put, 1), STORAGE_FENCED);
    ASSERT_RC(worker->type->log_append(worker, "w", "me", &group, 0, &err), STORAGE_FENCED);
    ASSERT_SET(api, "w", STORAGE_TRIGGERS, "");
    assert_int_equal(groups_kept(api, "w"), 0);
    claim(worker, "w", "me");
    ASSERT_RC(worker->type->log_append(worker, "w", "me", &group, 0, &err), 0);
    storage_close(api);
    storage_close(worker);
}

/* ---- edit ---- */

static void test_edit(void **state)
{
    (void)state;
    struct storage *storage = connection();
    struct storage_op ops[] = {
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, "t", "{\"uuid\":\"u1\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, "t", "{\"uuid\":\"u2\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE, "absent", NULL, NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "t", "{\"uuid\":\"u3\"}", "u2"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "t", "{\"uuid\":\"u3\"}", "u1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "t", NULL, "u1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "t", NULL, "u3"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "t", "x", ""),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, "t", "again", NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "t", "1", NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "t", "2", NULL),
        storage_op_of(STORAGE_DEAD_LETTERS, STORAGE_DELETE_IF, "t", NULL, ""),
        storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_PUT, "s", "", NULL),
        storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_DELETE, "s", NULL, NULL),
        storage_op_of(STORAGE_GLOBAL_CONTEXT, STORAGE_PUT, "g", "7", NULL),
    };
    enum { N = sizeof ops / sizeof ops[0] };
    static const int expected[N] = {0, STORAGE_EXISTS, STORAGE_ABSENT, STORAGE_ABSENT, 0, STORAGE_ABSENT,
                                    0, STORAGE_ABSENT};
    int results[N];
    ASSERT_RC(storage->type->edit(storage, "w", ops, N, results, &err), STORAGE_ABSENT);
    create(storage, "w", "100.5");
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "");
    ASSERT_RC(storage->type->edit(storage, "w", ops, N, results, &err), 0);
    for (size_t i = 0; i < N; i++)
        if (results[i] != (i == 11 ? STORAGE_ABSENT : expected[i]))
            fail_msg("operation %zu: %d", i, results[i]);
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "t=again");
    ASSERT_SET(storage, "w", STORAGE_TIMERS, "t=2");
    ASSERT_SET(storage, "w", STORAGE_EVENT_SOURCES, "");
    ASSERT_SET(storage, "w", STORAGE_GLOBAL_CONTEXT, "g=7");
    ASSERT_SET(storage, "w", STORAGE_CHECKPOINT, "");
    ASSERT_RC(storage->type->edit(storage, "w", ops, 0, results, &err), 0);
    ASSERT_RC(storage->type->edit(storage, "no/name", ops, 1, results, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    storage_close(storage);
}

static void test_edit_binary(void **state)
{
    (void)state;
    static const char bytes[] = "k\0\r\n\"'\xc3\xa9;--";
    struct storage *storage = connection();
    struct fields fields = {.n = 0};
    int result = -1;
    struct storage_op put = {.set = STORAGE_TRIGGERS,
                             .kind = STORAGE_PUT_NEW,
                             .key = bytes,
                             .key_len = sizeof bytes - 1,
                             .value = bytes,
                             .value_len = sizeof bytes - 1};
    create(storage, "w", "100.5");
    ASSERT_RC(storage->type->edit(storage, "w", &put, 1, &result, &err), 0);
    assert_int_equal(result, 0);
    ASSERT_RC(storage->type->edit(storage, "w", &put, 1, &result, &err), 0);
    assert_int_equal(result, STORAGE_EXISTS);
    ASSERT_RC(storage->type->load(storage, "w", STORAGE_TRIGGERS, collect, &fields, &err), 0);
    assert_fields(&fields, "k=k", __LINE__); /* as far as text shows it */
    put.kind = STORAGE_DELETE;
    ASSERT_RC(storage->type->edit(storage, "w", &put, 1, &result, &err), 0);
    assert_int_equal(result, 0);
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "");
    storage_close(storage);
}

static void test_edit_many(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct storage *storage = connection();
    struct storage_op *ops = calloc(N, sizeof *ops);
    char(*keys)[12] = calloc(N, sizeof *keys);
    int *results = calloc(N, sizeof *results);
    assert_non_null(ops);
    assert_non_null(keys);
    assert_non_null(results);
    create(storage, "w", "100.5");
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "t%d", i % (N / 2));
        ops[i] = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, keys[i], "{}", NULL);
    }
    ASSERT_RC(storage->type->edit(storage, "w", ops, N, results, &err), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(results[i], i < N / 2 ? 0 : STORAGE_EXISTS);
    for (int i = 0; i < N; i++)
        ops[i].kind = STORAGE_DELETE;
    ASSERT_RC(storage->type->edit(storage, "w", ops, N, results, &err), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(results[i], i < N / 2 ? 0 : STORAGE_ABSENT);
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "");
    free(ops);
    free(keys);
    free(results);
    storage_close(storage);
}

struct rival {
    pthread_t thread;
    struct storage *storage;
    char name[4];
    int rc;
    int won;
};

enum { RACES = 100 };

/* Wants each of the triggers, and creates each of the workspaces. */
static void *compete(void *data)
{
    struct rival *rival = data;
    for (int i = 0; i < RACES && rival->rc == 0; i++) {
        char key[16];
        int result = -1;
        struct error own = {.code = ERROR_NONE};
        snprintf(key, sizeof key, "t%d", i);
        struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, key, rival->name, NULL);
        rival->rc = rival->storage->type->edit(rival->storage, "w", &put, 1, &result, &own);
        rival->won += rival->rc == 0 && result == 0;
        if (i % 10 || rival->rc)
            continue;
        int created = rival->storage->type->create(rival->storage, key, rival->name, &put, 1, &own);
        rival->won += created == 0;
        rival->rc = created == STORAGE_EXISTS ? 0 : created;
    }
    return NULL;
}

static void test_rivals(void **state)
{
    (void)state;
    struct rival rivals[2] = {{.name = "a"}, {.name = "b"}};
    struct storage *storage = connection();
    create(storage, "w", "100.5");
    for (int i = 0; i < 2; i++) {
        rivals[i].storage = connection();
        assert_int_equal(pthread_create(&rivals[i].thread, NULL, compete, &rivals[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(rivals[i].thread, NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(rivals[i].rc, 0);
        storage_close(rivals[i].storage);
    }
    assert_int_equal(rivals[0].won + rivals[1].won, RACES + RACES / 10);
    storage_close(storage);
}

/* ---- the event log ---- */

struct walked {
    uint64_t numbers[64];
    size_t n;
    size_t limit; /* ends the walk; 0: never */
    struct buffer events;
    struct buffer ids;
    bool without_events;
};

static int walk(void *data, const struct storage_log_group *group)
{
    struct walked *walked = data;
    assert_true(walked->n < 64);
    walked->numbers[walked->n++] = group->number;
    walked->without_events = !group->events;
    buffer_append(&walked->events, group->events ? group->events : "", group->events_len);
    buffer_append(&walked->ids, group->ids ? group->ids : "", group->ids_len);
    return walked->limit && walked->n >= walked->limit ? -7 : 0;
}

static int append(struct storage *storage, const char *writer, uint64_t number, const char *events,
                  uint64_t forget_ids)
{
    char ids[24];
    snprintf(ids, sizeof ids, "<%llu>", (unsigned long long)number);
    struct storage_log_group group = {number, events, strlen(events), ids, strlen(ids)};
    return storage->type->log_append(storage, "w", writer, &group, forget_ids, &err);
}

#define ASSERT_LOG(storage, after, bytes, expected) assert_log(storage, after, bytes, expected, __LINE__)
static void assert_log(struct storage *storage, uint64_t after, size_t bytes, const char *expected, int line)
{
    struct walked walked = {.n = 0};
    assert_rc(storage->type->log_read(storage, "w", after, bytes, walk, &walked, &err), 0, "log_read", line);
    if (strcmp(buffer_text(&walked.events), expected) != 0)
        fail_msg("line %d: read \"%s\", not \"%s\"", line, buffer_text(&walked.events), expected);
    for (size_t i = 0; i < walked.n; i++)
        assert_true(walked.numbers[i] > (i ? walked.numbers[i - 1] : after));
    buffer_done(&walked.events);
    buffer_done(&walked.ids);
}

#define ASSERT_IDS(storage, expected) assert_ids(storage, expected, __LINE__)
static void assert_ids(struct storage *storage, const char *expected, int line)
{
    struct walked walked = {.n = 0};
    assert_rc(storage->type->log_ids(storage, "w", walk, &walked, &err), 0, "log_ids", line);
    if (strcmp(buffer_text(&walked.ids), expected) != 0)
        fail_msg("line %d: kept \"%s\", not \"%s\"", line, buffer_text(&walked.ids), expected);
    assert_true(walked.n == 0 || walked.without_events);
    buffer_done(&walked.events);
    buffer_done(&walked.ids);
}

static struct storage *begin_log(void)
{
    struct storage *storage = connection();
    create(storage, "w", "100.5");
    claim(storage, "w", "me");
    return storage;
}

static void test_log(void **state)
{
    (void)state;
    struct storage *storage = begin_log();
    ASSERT_LOG(storage, 0, 1000, "");
    ASSERT_IDS(storage, "");
    ASSERT_RC(append(storage, "me", 1, "one ", 0), 0);
    ASSERT_RC(append(storage, "me", 2, "two ", 0), 0);
    ASSERT_RC(append(storage, "me", 10, "ten ", 0), 0);
    ASSERT_LOG(storage, 0, 1000, "one two ten ");
    ASSERT_LOG(storage, 1, 1000, "two ten ");
    ASSERT_LOG(storage, 2, 1000, "ten ");
    ASSERT_LOG(storage, 10, 1000, "");
    ASSERT_LOG(storage, UINT64_MAX, 1000, "");
    ASSERT_LOG(storage, 0, 0, "one ");
    ASSERT_IDS(storage, "<1><2><10>");
    /* A commit takes what it has consumed; its ids stay. */
    ASSERT_RC(commit(storage, "w", 1, "100.5", 2, NULL, 0), 0);
    ASSERT_LOG(storage, 0, 1000, "ten ");
    ASSERT_IDS(storage, "<1><2><10>");
    ASSERT_RC(commit(storage, "w", 1, "100.5", 10, NULL, 0), 0); /* it is done already */
    ASSERT_LOG(storage, 0, 1000, "ten ");
    ASSERT_RC(commit(storage, "w", 2, "100.5", 10, NULL, 0), 0);
    ASSERT_LOG(storage, 0, 1000, "");
    ASSERT_RC(append(storage, "me", 11, "eleven ", 2), 0);
    ASSERT_LOG(storage, 0, 1000, "eleven ");
    ASSERT_IDS(storage, "<2><10><11>");
    ASSERT_RC(append(storage, "me", 12, "twelve ", 12), 0);
    ASSERT_IDS(storage, "<12>");
    ASSERT_LOG(storage, 0, 1000, "eleven twelve ");
    ASSERT_RC(commit(storage, "w", 3, "100.5", 0, NULL, 0), 0);
    ASSERT_LOG(storage, 0, 1000, "eleven twelve ");
    storage_close(storage);
    storage = connection(); /* and the next process finds it */
    assert_int_equal(claim(storage, "w", "me").epoch, 3);
    ASSERT_LOG(storage, 11, 1000, "twelve ");
    ASSERT_IDS(storage, "<12>");
    storage_close(storage);
}

static void test_log_repeated(void **state)
{
    (void)state;
    struct storage *storage = begin_log();
    ASSERT_RC(append(storage, "me", 5, "five ", 0), 0);
    ASSERT_RC(append(storage, "me", 5, "five ", 0), 0);
    ASSERT_LOG(storage, 0, 1000, "five ");
    ASSERT_RC(commit(storage, "w", 1, "100.5", 5, NULL, 0), 0);
    ASSERT_RC(append(storage, "me", 5, "five ", 0), 0); /* consumed in the meantime */
    ASSERT_LOG(storage, 0, 1000, "");
    ASSERT_RC(append(storage, "me", 6, "six ", 6), 0);
    ASSERT_RC(append(storage, "me", 6, "six ", 6), 0);
    ASSERT_LOG(storage, 0, 1000, "six ");
    ASSERT_IDS(storage, "<6>");
    ASSERT_RC(append(storage, "me", 4, "four ", 0), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    ASSERT_LOG(storage, 0, 1000, "six ");
    storage_close(storage);
}

static void test_log_fenced(void **state)
{
    (void)state;
    struct storage *storage = begin_log();
    struct storage *other = connection();
    ASSERT_RC(append(storage, "me", 1, "one ", 0), 0);
    claim(other, "w", "they");
    ASSERT_RC(append(storage, "me", 2, "two ", 0), STORAGE_FENCED);
    assert_int_equal(err.code, ERROR_FENCED);
    ASSERT_RC(append(storage, "me", 1, "one ", 0), STORAGE_FENCED);
    ASSERT_RC(append(other, "they", 2, "theirs ", 0), 0);
    ASSERT_LOG(storage, 0, 1000, "one theirs ");
    ASSERT_RC(append(storage, "me", 2, "two ", 0), STORAGE_FENCED);
    create(other, "x", "1");
    struct storage_log_group group = {1, "x", 1, "i", 1};
    ASSERT_RC(other->type->log_append(other, "x", "they", &group, 0, &err), STORAGE_FENCED); /* unclaimed */
    ASSERT_RC(other->type->log_append(other, "absent", "they", &group, 0, &err), STORAGE_FENCED);
    storage_close(other);
    storage_close(storage);
}

/* Several groups of 2 MiB of every byte, read in pieces. */
static void test_log_large(void **state)
{
    (void)state;
    enum { SIZE = 2 << 20, GROUPS = 8 };
    struct storage *storage = begin_log();
    unsigned char *bytes = malloc(SIZE);
    assert_non_null(bytes);
    uint64_t after = 0;
    for (uint64_t number = 1; number <= 40; number++) { /* the average misleads */
        ASSERT_RC(append(storage, "me", number, ".", 0), 0);
        after = number;
    }
    for (uint32_t i = 0; i < SIZE; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 24);
    for (uint64_t i = 1; i <= GROUPS; i++) {
        bytes[0] = (unsigned char)i;
        struct storage_log_group group = {after + i, bytes, SIZE, bytes, 256 << 8};
        ASSERT_RC(storage->type->log_append(storage, "w", "me", &group, 0, &err), 0);
    }
    size_t seen = 0;
    for (uint64_t at = after; at < after + GROUPS;) {
        struct walked walked = {.n = 0};
        ASSERT_RC(storage->type->log_read(storage, "w", at, 3 << 20, walk, &walked, &err), 0);
        assert_in_range(walked.n, 1, 3);
        for (size_t i = 0; i < walked.n; i++) {
            bytes[0] = (unsigned char)++seen;
            assert_memory_equal(walked.events.data + i * SIZE, bytes, SIZE);
        }
        at = walked.numbers[walked.n - 1];
        buffer_done(&walked.events);
        buffer_done(&walked.ids);
    }
    assert_int_equal(seen, GROUPS);
    struct walked walked = {.limit = 3};
    ASSERT_RC(storage->type->log_read(storage, "w", 0, SIZE_MAX, walk, &walked, &err), -7);
    ASSERT_RC(storage->type->log_ids(storage, "w", walk, &walked, &err), -7);
    buffer_done(&walked.events);
    buffer_done(&walked.ids);
    assert_int_equal(groups_kept(storage, "w"), (after + GROUPS) * 101);
    free(bytes);
    storage_close(storage);
}

/* What is before the first group's number, and above what a double holds. */
static void test_log_numbers(void **state)
{
    (void)state;
    const uint64_t large = (1ull << 62) + 1;
    struct storage *storage = begin_log();
    ASSERT_RC(append(storage, "me", 9, "a", 0), 0);
    ASSERT_RC(append(storage, "me", 10, "b", 0), 0);
    ASSERT_RC(append(storage, "me", large, "c", 0), 0);
    ASSERT_RC(append(storage, "me", large + 1, "d", 0), 0);
    ASSERT_LOG(storage, large, 100, "d");
    ASSERT_RC(commit(storage, "w", 1, "100.5", large, NULL, 0), 0);
    ASSERT_LOG(storage, 0, 100, "d");
    storage_close(storage);
}

/* ---- users ---- */

static void test_users(void **state)
{
    (void)state;
    struct storage *storage = connection();
    struct fields users = {.n = 0};
    ASSERT_RC(storage->type->users(storage, collect, &users, &err), 0);
    assert_fields(&users, "", __LINE__);
    ASSERT_RC(storage->type->user_put(storage, "ada", NULL, &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->user_put(storage, "ada", "aa", &err), 0);
    ASSERT_RC(storage->type->user_put(storage, "bob o'hara", "bb", &err), 0);
    ASSERT_RC(storage->type->user_put(storage, "ada", "a2", &err), 0);
    users.n = 0;
    ASSERT_RC(storage->type->users(storage, collect, &users, &err), 0);
    assert_fields(&users, "ada=a2 bob o'hara=bb", __LINE__);
    ASSERT_RC(storage->type->user_put(storage, "ada", NULL, &err), 0);
    ASSERT_WORKSPACES(storage, "");
    users.n = 0;
    ASSERT_RC(storage->type->users(storage, collect, &users, &err), 0);
    assert_fields(&users, "bob o'hara=bb", __LINE__);
    storage_close(storage);
}

/* ---- Redis alone ---- */

#define COMMAND(...) command_done(redis_server_do(&bed.redis, __VA_ARGS__))
static long long command_done(redisReply *reply)
{
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s", reply->str);
    long long value = reply->integer;
    freeReplyObject(reply);
    return value;
}

/* Edits by another connection are told to a worker that watches. */
static void test_redis_watch(void **state)
{
    (void)state;
    struct storage *worker = begin_log();
    struct storage *api = connection();
    struct storage_op ops[] = {storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_NEW, "t", "{}", NULL),
                               storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_PUT, "s", "{}", NULL)};
    int result;
    for (size_t i = 0; i < 3; i++) {
        int fd = -1;
        ASSERT_RC(worker->type->watch(worker, "w", &fd, &err), 0);
        ASSERT_RC(i < 2 ? api->type->edit(api, "w", &ops[i], 1, &result, &err)
                        : api->type->remove(api, "w", &err),
                  0);
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&poll_fd, 1, 20000), 1);
        ASSERT_RC(worker->type->watch_read(worker, &err), 0);
    }
    storage_close(api);
    storage_close(worker);
}

/* A program that knows only the shared keys has deleted the workspace, and made it again. */
static void test_redis_leftover(void **state)
{
    (void)state;
    struct storage *storage = begin_log();
    ASSERT_RC(append(storage, "me", 1, "one ", 0), 0);
    COMMAND("HSET triggerflow-workspaces w 200.5");
    ASSERT_RC(append(storage, "me", 2, "two ", 0), STORAGE_FENCED);
    claim(storage, "w", "me");
    assert_int_equal(groups_kept(storage, "w"), 0);
    ASSERT_RC(append(storage, "me", 1, "new ", 0), 0);
    COMMAND("HDEL triggerflow-workspaces w");
    COMMAND("HSET w-timers t x");
    create(storage, "w", "300.5");
    assert_int_equal(COMMAND("DBSIZE"), 1);
    storage_close(storage);
}

static void test_redis_keys(void **state)
{
    (void)state;
    struct storage *storage = connection();
    fill(storage, "a", "1");
    COMMAND("SET a-events2 x");
    COMMAND("SET a-x x");
    assert_int_equal(COMMAND("DBSIZE"), 1 + STORAGE_SETS + 2 + 2);
    assert_int_equal(COMMAND("XLEN a-events") + COMMAND("XLEN a-event_ids"), 2);
    ASSERT_RC(storage->type->remove(storage, "a", &err), 0);
    assert_int_equal(COMMAND("EXISTS a-events2 a-x"), 2);
    assert_int_equal(COMMAND("DBSIZE"), 2);
    storage_close(storage);
}

static void assert_refused(int rc, const char *words)
{
    assert_int_equal(rc, -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    if (!strstr(err.message, words))
        fail_msg("%s, not %s", err.message, words);
}

static void test_redis_types(void **state)
{
    (void)state;
    static const char *const names[] = {"triggers", "dead_letters", "events", "event_ids"};
    struct storage *storage = begin_log();
    struct storage_claim found;
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "t", "{}", NULL);
    char words[64];
    int result;
    for (size_t i = 0; i < 4; i++) {
        COMMAND("SET w-%s x", names[i]);
        snprintf(words, sizeof words, "key w-%s is a string, not a %s", names[i], i < 2 ? "hash" : "stream");
        assert_refused(storage->type->claim(storage, "w", "me", &found, &err), words);
        assert_refused(commit(storage, "w", 1, "100.5", 1, &put, 1), words);
        assert_refused(append(storage, "me", 1, "x", 0), words);
        assert_refused(storage->type->edit(storage, "w", &put, 1, &result, &err), words);
        assert_refused(storage->type->remove(storage, "w", &err), words);
        COMMAND("DEL w-%s", names[i]);
    }
    COMMAND("SET other-triggers x");
    assert_refused(storage->type->create(storage, "other", "1", &put, 1, &err), "key other-triggers");
    ASSERT_WORKSPACES(storage, "w=100.5");
    COMMAND("SET triggerflow-auth x");
    assert_refused(storage->type->user_put(storage, "u", "d", &err), "triggerflow-auth");
    COMMAND("XADD w-events 1-0 other field");
    int n = 0;
    assert_refused(storage->type->log_read(storage, "w", 0, 1, count_groups, &n, &err), "w-events");
    storage_close(storage);
}

static void assert_no_space(int rc)
{
    assert_int_equal(rc, -1);
    assert_int_equal(err.code, ERROR_NO_SPACE);
    err.code = ERROR_NONE;
}

static void test_redis_no_space(void **state)
{
    (void)state;
    struct storage *storage = begin_log();
    struct storage_op ops[] = {storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE, "t", NULL, NULL),
                               storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "u", "{}", NULL),
                               storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "t", "{}", NULL)};
    int results[3];
    ASSERT_RC(storage->type->edit(storage, "w", ops + 2, 1, results, &err), 0);
    COMMAND("CONFIG SET maxmemory 1");
    assert_no_space(append(storage, "me", 1, "x", 0));
    assert_no_space(storage->type->edit(storage, "w", ops, 2, results, &err));
    assert_no_space(storage->type->create(storage, "x", "1", ops, 0, &err));
    assert_no_space(commit(storage, "w", 1, "100.5", 1, NULL, 0));
    assert_no_space(storage->type->user_put(storage, "u", "d", &err));
    ASSERT_SET(storage, "w", STORAGE_TRIGGERS, "t={}");
    ASSERT_RC(storage->type->edit(storage, "w", ops, 1, results, &err), 0); /* makes room */
    ASSERT_RC(storage->type->remove(storage, "w", &err), 0);
    COMMAND("CONFIG SET maxmemory 0");
    assert_int_equal(COMMAND("DBSIZE"), 0);
    storage_close(storage);
}

/* Refused for want of permission, before anything is written. */
static void test_redis_permission(void **state)
{
    (void)state;
    static const char *const lacking[] = {"xtrim", "xadd", "hdel"};
    struct storage_op ops[] = {storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "t", "{}", NULL),
                               storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE, "t", NULL, NULL)};
    int results[2];
    storage_close(begin_log());
    for (size_t i = 0; i < 3; i++) {
        COMMAND("ACL SETUSER some reset on >pw ~* &* +@all -%s", lacking[i]);
        struct config config = bed.config;
        char name[] = "some";
        char password[] = "pw";
        config.storage_username = name;
        config.storage_password = password;
        struct storage *storage = NULL;
        ASSERT_RC(storage_open(&config, "tf-test", &storage, &err), 0);
        if (i < 2)
            assert_refused(append(storage, "me", 1, "x", 0), "");
        else
            assert_refused(storage->type->edit(storage, "w", ops, 2, results, &err), "");
        storage_close(storage);
        assert_int_equal(COMMAND("EXISTS w-events w-event_ids w-triggers"), 0);
    }
}

/* It is done, its answer lost: the caller repeats it. */
static void test_redis_lost_answer(void **state)
{
    (void)state;
    struct redis_proxy proxy;
    assert_int_equal(redis_proxy_start(&proxy, bed.redis.port), 0);
    storage_close(begin_log());
    struct config config = bed.config;
    config.storage_port = proxy.port;
    struct storage *storage = NULL;
    ASSERT_RC(storage_open(&config, "tf-test", &storage, &err), 0);
    ASSERT_RC(append(storage, "me", 1, "one ", 0), 0); /* the script is loaded */
    atomic_store(&proxy.cut, true);
    ASSERT_RC(append(storage, "me", 2, "two ", 2), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_int_equal(COMMAND("XLEN w-events"), 2);
    ASSERT_RC(append(storage, "me", 2, "two ", 2), 0);
    COMMAND("SCRIPT FLUSH");
    ASSERT_RC(append(storage, "me", 3, "three ", 2), 0);
    ASSERT_LOG(storage, 0, 1000, "one two three ");
    ASSERT_IDS(storage, "<2><3>");
    storage_close(storage);
    redis_proxy_stop(&proxy);
}

/* ---- */

static int clear(void **state)
{
    (void)state;
    return storage_bed_clear(&bed);
}

#define TEST(name) cmocka_unit_test_setup(name, clear)
static const struct CMUnitTest all[] = {
    TEST(test_create),     TEST(test_remove),      TEST(test_removed_under_worker),
    TEST(test_edit),       TEST(test_edit_binary), TEST(test_edit_many),
    TEST(test_rivals),     TEST(test_log),         TEST(test_log_repeated),
    TEST(test_log_fenced), TEST(test_log_large),   TEST(test_log_numbers),
    TEST(test_users),
};
static const struct CMUnitTest redis_alone[] = {
    TEST(test_redis_watch),       TEST(test_redis_leftover), TEST(test_redis_keys),
    TEST(test_redis_types),       TEST(test_redis_no_space), TEST(test_redis_permission),
    TEST(test_redis_lost_answer),
};

int main(void)
{
    int failed = 0;
    signal(SIGPIPE, SIG_IGN);
    for (const char *const *backend = storage_bed_backends; *backend; backend++) {
        int rc = storage_bed_start(&bed, *backend);
        if (rc == 0)
            failed += cmocka_run_group_tests_name(*backend, all, NULL, NULL);
        if (rc == 0 && strcmp(*backend, "redis") == 0)
            failed += cmocka_run_group_tests_name("redis alone", redis_alone, NULL, NULL);
        failed += rc < 0;
        storage_bed_done(&bed);
    }
    return failed ? 1 : 0;
}
