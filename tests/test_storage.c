/* common/storage on a real Redis: every call, every refusal, and the races that fencing is there for. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/storage/storage.h"
#include "tests/support/redis_server.h"
#include "tests/support/storage_bed.h"

static struct redis_server shared; /* flushed before each test; not running when redis-server is absent */
static struct error err;

static void need_server(void)
{
    if (!shared.pid) {
        print_message("skipped: no redis-server\n");
        skip();
    }
}

/* ---- helpers ---- */

static char *text(const char *constant)
{
    static char copies[32][128]; /* config's strings are not const; a test never needs more at once */
    static size_t next;
    char *copy = copies[next++ % 32];
    snprintf(copy, sizeof copies[0], "%s", constant);
    return copy;
}

static struct config config_for(int port, const char *username, const char *password)
{
    return (struct config){.storage_backend = text("redis"),
                           .storage_host = text("127.0.0.1"),
                           .storage_port = port,
                           .storage_username = text(username),
                           .storage_password = text(password),
                           .storage_tls_ca = text(""),
                           .storage_tls_cert = text(""),
                           .storage_tls_key = text("")};
}

static struct storage *open_config(const struct config *config)
{
    struct storage *storage = NULL;
    memset(&err, 0, sizeof err);
    assert_int_equal(storage_open(config, "tf-test", &storage, &err), 0);
    return storage;
}

static struct storage *open_on(int port)
{
    struct config config = config_for(port, "", "");
    return open_config(&config);
}

static struct storage *open_as(int port, const char *username)
{
    struct config config = config_for(port, username, "pw");
    return open_config(&config);
}

/* A command whose answer is an integer, or nothing of interest. */
#define COMMAND(...) command_done(redis_server_do(__VA_ARGS__))
static long long command_done(redisReply *reply)
{
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s", reply->str);
    long long value = reply->integer;
    freeReplyObject(reply);
    return value;
}

static void assert_stored(struct redis_server *server, const char *key, const char *field, const char *value)
{
    redisReply *reply = redis_server_do(server, "HGET %s %s", key, field);
    assert_non_null(reply);
    if (!value)
        assert_int_equal(reply->type, REDIS_REPLY_NIL);
    else if (!reply->str || strcmp(reply->str, value) != 0)
        fail_msg("%s %s is %s, not %s", key, field, reply->str ? reply->str : "absent", value);
    freeReplyObject(reply);
}

static struct storage_claim claim(struct storage *storage, const char *workspace, const char *writer)
{
    struct storage_claim result;
    if (storage->type->claim(storage, workspace, writer, &result, &err) != 0)
        fail_msg("claim: %s", err.message);
    return result;
}

static void assert_claim_fails(struct storage *storage, enum error_code code, const char *words)
{
    struct storage_claim result;
    assert_int_equal(storage->type->claim(storage, "w", "me", &result, &err), -1);
    if (err.code != code || !strstr(err.message, words))
        fail_msg("code %s, message %s", error_code_name(err.code), err.message);
}

static int commit_as(struct storage *storage, const char *writer, const char *creation, uint64_t epoch,
                     const struct storage_op *ops, size_t n)
{
    struct storage_commit commit = {"w", creation, writer, epoch, ops, n, 0};
    memset(&err, 0, sizeof err);
    return storage->type->commit(storage, &commit, &err);
}

static int commit(struct storage *storage, uint64_t epoch, const struct storage_op *ops, size_t n)
{
    return commit_as(storage, "me", "100.5", epoch, ops, n);
}

static void assert_commit_fails(struct storage *storage, uint64_t epoch, enum error_code code,
                                const char *words)
{
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "refused", "{}", NULL);
    assert_int_equal(commit(storage, epoch, &put, 1), -1);
    if (err.code != code || !strstr(err.message, words))
        fail_msg("code %s, message %s", error_code_name(err.code), err.message);
}

/* The usual beginning: workspace w, created at 100.5, claimed by "me". */
static struct storage *begin(void)
{
    need_server();
    COMMAND(&shared, "HSET triggerflow-workspaces w 100.5");
    struct storage *storage = open_on(shared.port);
    struct storage_claim found = claim(storage, "w", "me");
    assert_int_equal(found.epoch, 0);
    assert_string_equal(found.creation, "100.5");
    return storage;
}

/* ---- the registry ---- */

static void test_registry(void **state)
{
    (void)state;
    struct config config = config_for(1, "", "");
    struct storage *storage = NULL;
    config.storage_backend = text("papyrus");
    assert_int_equal(storage_open(&config, "x", &storage, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_non_null(strstr(err.message, "papyrus"));
    assert_non_null(strstr(err.message, "redis"));
    storage_close(NULL);
    assert_string_equal(storage_set_name(STORAGE_DEAD_LETTERS), "dead_letters");
    char longest[STORAGE_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[STORAGE_NAME_MAX] = '\0';
    assert_true(storage_name_valid(longest));
    longest[STORAGE_NAME_MAX] = 'a';
    longest[STORAGE_NAME_MAX + 1] = '\0';
    assert_false(storage_name_valid(longest));
    assert_true(storage_name_valid("A-z.0_9"));
    assert_false(storage_name_valid(""));
    assert_false(storage_name_valid("triggerflow"));
    assert_false(storage_name_valid("a b"));
    assert_false(storage_name_valid("a/b"));
}

/* ---- reading ---- */

static void test_workspaces(void **state)
{
    (void)state;
    need_server();
    struct storage *storage = open_on(shared.port);
    struct storage_found found = {0};
    assert_int_equal(storage->type->workspaces(storage, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, 0);
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), STORAGE_ABSENT);
    COMMAND(&shared, "HSET triggerflow-workspaces w 1600000000.25");
    assert_int_equal(storage->type->workspaces(storage, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, 1);
    assert_string_equal(found.last_key, "w");
    assert_string_equal(found.last_value, "1600000000.25");
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), 0);
    COMMAND(&shared, "DEL triggerflow-workspaces");
    COMMAND(&shared, "SET triggerflow-workspaces x");
    assert_int_equal(storage->type->workspaces(storage, storage_found_add, &found, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_non_null(strstr(err.message, "triggerflow-workspaces"));
    assert_non_null(strstr(err.message, "127.0.0.1:"));
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), -1);
    storage_close(storage);
}

static void test_load_and_get(void **state)
{
    (void)state;
    enum { FIELDS = 5000 };
    static char keys[FIELDS][16];
    static const char *names[FIELDS + 2];
    struct storage *storage = begin();
    struct storage_found found = {0};
    for (int i = 0; i < FIELDS; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        names[i] = keys[i];
        COMMAND(&shared, "HSET w-timers k%d v%d", i, i);
    }
    assert_int_equal(storage->type->load(storage, "w", STORAGE_TIMERS, storage_found_add, &found, &err), 0);
    assert_true(found.n >= FIELDS);
    found = (struct storage_found){.limit = 10};
    assert_int_equal(storage->type->load(storage, "w", STORAGE_TIMERS, storage_found_add, &found, &err), -7);
    assert_int_equal(found.n, 10);
    found = (struct storage_found){0};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, names, FIELDS, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, FIELDS);
    assert_string_equal(found.last_value, "v4999");
    found = (struct storage_found){0};
    const char *some[] = {"k3", "absent", "k1", "k2"};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 4, storage_found_add, &found, &err), 0);
    assert_string_equal(found.keys, "k3 k1 k2 ");
    found = (struct storage_found){.limit = 1};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 4, storage_found_add, &found, &err), -7);
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 0, storage_found_add, &found, &err), 0);
    found = (struct storage_found){0};
    assert_int_equal(storage->type->load(storage, "w", STORAGE_OUTBOX, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, 0);
    assert_int_equal(storage->type->load(storage, "no such", STORAGE_OUTBOX, storage_found_add, &found, &err),
                     -1);
    assert_int_equal(err.code, ERROR_INVALID);
    COMMAND(&shared, "SET w-outbox x");
    assert_int_equal(storage->type->load(storage, "w", STORAGE_OUTBOX, storage_found_add, &found, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_non_null(strstr(err.message, "w-outbox"));
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_OUTBOX, some, 4, storage_found_add, &found, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    storage_close(storage);
}

/* ---- claim ---- */

static void test_claim(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_claim found;
    assert_int_equal(storage->type->claim(storage, "absent", "me", &found, &err), STORAGE_ABSENT);
    assert_int_equal(COMMAND(&shared, "EXISTS absent-checkpoint"), 0);
    assert_int_equal(storage->type->claim(storage, "not/valid", "me", &found, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_stored(&shared, "w-checkpoint", "format", "1");
    assert_stored(&shared, "w-checkpoint", "writer", "me");
    assert_stored(&shared, "w-checkpoint", "creation", "100.5");
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    found = claim(storage, "w", "other");
    assert_int_equal(found.epoch, 1);
    assert_false(found.durable);
    assert_string_equal(found.durability, "none");
    COMMAND(&shared, "HSET w-checkpoint epoch many");
    assert_claim_fails(storage, ERROR_REFUSED, "many");
    storage_close(storage);
}

static void test_durability(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    assert_int_equal(
        redis_server_run(&server, (const char *[]){"--appendonly", "yes", "--appendfsync", "always", NULL}),
        0);
    COMMAND(&server, "HSET triggerflow-workspaces w 100.5");
    COMMAND(&server, "ACL SETUSER noconfig on >pw ~* &* +@all -config -info");
    struct storage *storage = open_on(server.port);
    struct storage_claim found = claim(storage, "w", "me");
    assert_true(found.durable);
    assert_string_equal(found.durability, "always");
    storage_close(storage);
    storage = open_as(server.port, "noconfig");
    found = claim(storage, "w", "me");
    assert_true(found.durable);
    assert_string_equal(found.durability, "unknown");
    storage_close(storage);
    redis_server_done(&server);
}

static void test_wrong_types(void **state)
{
    (void)state;
    struct storage *storage = begin();
    static const char *const sets[] = {"triggers", "event_sources", "global_context", "checkpoint",
                                       "outbox",   "internal",      "timers",         "dead_letters"};
    char words[64];
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        COMMAND(&shared, "DEL w-%s", sets[i]);
        COMMAND(&shared, "RPUSH w-%s x", sets[i]);
        snprintf(words, sizeof words, "key w-%s is a list", sets[i]);
        assert_claim_fails(storage, ERROR_REFUSED, words);
        assert_commit_fails(storage, 1, ERROR_REFUSED, words);
        COMMAND(&shared, "DEL w-%s", sets[i]);
    }
    COMMAND(&shared, "DEL triggerflow-workspaces");
    COMMAND(&shared, "SET triggerflow-workspaces x");
    assert_claim_fails(storage, ERROR_REFUSED, "key triggerflow-workspaces is a string");
    assert_int_equal(COMMAND(&shared, "EXISTS w-triggers w-checkpoint"), 0);
    storage_close(storage);
}

static void test_newer_format(void **state)
{
    (void)state;
    struct storage *storage = begin();
    COMMAND(&shared, "HSET w-checkpoint format 2");
    assert_commit_fails(storage, 1, ERROR_REFUSED, "format 2 is newer");
    assert_claim_fails(storage, ERROR_REFUSED, "format 2 is newer");
    COMMAND(&shared, "HSET w-checkpoint format new");
    assert_claim_fails(storage, ERROR_REFUSED, "format new");
    assert_stored(&shared, "w-checkpoint", "epoch", NULL);
    storage_close(storage);
}

/* The workspace was deleted and created anew by a program that does not know our keys. */
static void test_leftover(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op ops[] = {
        storage_op_of(STORAGE_CHECKPOINT, STORAGE_PUT, "position:s", "5", NULL),
        storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "1", "{}", NULL),
        storage_op_of(STORAGE_INTERNAL, STORAGE_PUT, "1", "{}", NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "1", "{}", NULL),
        storage_op_of(STORAGE_DEAD_LETTERS, STORAGE_PUT, "1", "{}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "1", "{}", NULL),
    };
    assert_int_equal(commit(storage, 1, ops, 6), 0);
    assert_int_equal(claim(storage, "w", "me").epoch, 1); /* the same creation: all of it stays */
    assert_int_equal(COMMAND(&shared, "EXISTS w-outbox w-internal w-timers"), 3);
    COMMAND(&shared, "HSET triggerflow-workspaces w 200.5");
    struct storage_claim found = claim(storage, "w", "me");
    assert_int_equal(found.epoch, 0);
    assert_string_equal(found.creation, "200.5");
    assert_int_equal(COMMAND(&shared, "EXISTS w-outbox w-internal w-timers"), 0);
    assert_int_equal(COMMAND(&shared, "EXISTS w-triggers w-dead_letters"), 2);
    assert_stored(&shared, "w-checkpoint", "position:s", NULL);
    assert_stored(&shared, "w-checkpoint", "creation", "200.5");
    assert_int_equal(commit_as(storage, "me", "200.5", 1, NULL, 0), 0);
    storage_close(storage);
}

/* ---- commit ---- */

static void test_fenced(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "late", "{}", NULL);
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    struct storage *other = open_on(shared.port);
    assert_int_equal(claim(other, "w", "they").epoch, 1);
    assert_int_equal(commit(storage, 2, &put, 1), STORAGE_FENCED);
    assert_non_null(strstr(err.message, "they"));
    assert_int_equal(commit_as(other, "they", "100.5", 2, NULL, 0), 0);
    assert_int_equal(commit(storage, 2, &put, 1), STORAGE_FENCED); /* the same epoch is no success of ours */
    COMMAND(&shared, "HSET triggerflow-workspaces w 200.5");
    assert_int_equal(commit_as(other, "they", "100.5", 3, &put, 1), STORAGE_FENCED);
    assert_non_null(strstr(err.message, "anew"));
    COMMAND(&shared, "HDEL triggerflow-workspaces w");
    assert_int_equal(commit_as(other, "they", "100.5", 3, &put, 1), STORAGE_FENCED);
    assert_non_null(strstr(err.message, "gone"));
    assert_int_equal(COMMAND(&shared, "EXISTS w-triggers"), 0);
    assert_stored(&shared, "w-checkpoint", "epoch", "2");
    storage_close(other);
    storage_close(storage);
}

static void test_rolled_back(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "late", "{}", NULL);
    for (uint64_t epoch = 1; epoch <= 3; epoch++)
        assert_int_equal(commit(storage, epoch, NULL, 0), 0);
    COMMAND(&shared, "HSET w-checkpoint epoch 1");
    assert_int_equal(commit(storage, 4, &put, 1), STORAGE_ROLLED_BACK);
    assert_non_null(strstr(err.message, "lost data"));
    COMMAND(&shared, "DEL w-checkpoint");
    assert_int_equal(commit(storage, 4, &put, 1), STORAGE_ROLLED_BACK);
    assert_int_equal(commit(storage, 1, &put, 1), STORAGE_ROLLED_BACK); /* no writer is not ours */
    assert_int_equal(COMMAND(&shared, "EXISTS w-triggers w-checkpoint"), 0);
    storage_close(storage);
}

/* The commit is done, its answer lost: the caller cannot know, and repeats it. */
static void test_lost_answer(void **state)
{
    (void)state;
    need_server();
    struct redis_proxy proxy;
    assert_int_equal(redis_proxy_start(&proxy, shared.port), 0);
    COMMAND(&shared, "HSET triggerflow-workspaces w 100.5");
    struct storage *storage = open_on(proxy.port);
    struct storage_op put = storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "1", "first", NULL);
    claim(storage, "w", "me");
    assert_int_equal(commit(storage, 1, NULL, 0), 0); /* the script is loaded */
    atomic_store(&proxy.cut, true);
    assert_int_equal(commit(storage, 2, &put, 1), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_stored(&shared, "w-checkpoint", "epoch", "2");
    assert_int_equal(commit(storage, 2, &put, 1), 0);
    assert_int_equal(commit(storage, 3, NULL, 0), 0);
    assert_stored(&shared, "w-checkpoint", "epoch", "3");
    storage_close(storage);
    redis_proxy_stop(&proxy);
}

static void test_script_flush(void **state)
{
    (void)state;
    struct storage *storage = begin();
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    COMMAND(&shared, "SCRIPT FLUSH");
    assert_int_equal(commit(storage, 2, NULL, 0), 0);
    COMMAND(&shared, "SCRIPT FLUSH");
    assert_int_equal(claim(storage, "w", "me").epoch, 2);
    storage_close(storage);
}

static void test_large_commit(void **state)
{
    (void)state;
    enum { OPS = 100000 };
    struct storage *storage = begin();
    struct storage_op *ops = calloc(OPS, sizeof *ops);
    char(*keys)[16] = calloc(OPS, sizeof *keys);
    char(*values)[64] = calloc(OPS, sizeof *values);
    char(*uuids)[16] = calloc(OPS, sizeof *uuids);
    assert_non_null(ops);
    assert_non_null(keys);
    assert_non_null(values);
    assert_non_null(uuids);
    for (int i = 0; i < OPS; i++) {
        snprintf(keys[i], sizeof keys[i], "t%d", i);
        snprintf(values[i], sizeof values[i], "{\"id\":\"t%d\",\"uuid\":\"u%d\"}", i, i);
        ops[i] =
            storage_op_of(i % 2 ? STORAGE_TRIGGERS : STORAGE_OUTBOX, STORAGE_PUT, keys[i], values[i], NULL);
    }
    assert_int_equal(commit(storage, 1, ops, OPS), 0);
    assert_int_equal(COMMAND(&shared, "HLEN w-triggers"), OPS / 2);
    assert_int_equal(COMMAND(&shared, "HLEN w-outbox"), OPS / 2);
    for (int i = 0; i < OPS; i += 2) { /* every other trigger has another uuid by now */
        ops[i] = storage_op_of(STORAGE_OUTBOX, STORAGE_DELETE, keys[i], NULL, NULL);
        uuids[i + 1][0] = i % 4 == 0 ? 'u' : 'x';
        snprintf(uuids[i + 1] + 1, sizeof uuids[0] - 1, "%d", i + 1);
        ops[i + 1] = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, keys[i + 1], "{}", uuids[i + 1]);
    }
    assert_int_equal(commit(storage, 2, ops, OPS), 0);
    assert_int_equal(COMMAND(&shared, "EXISTS w-outbox"), 0);
    assert_stored(&shared, "w-triggers", "t99997", "{}");
    assert_stored(&shared, "w-triggers", "t99999", values[99999]);
    for (int i = 0; i < OPS; i++)
        ops[i] = storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, keys[i], NULL, "");
    assert_int_equal(commit(storage, 3, ops, OPS), 0);
    assert_int_equal(COMMAND(&shared, "EXISTS w-triggers"), 0);
    struct storage_op *many = calloc(STORAGE_OPS_SAFE * 3, sizeof *many);
    assert_non_null(many);
    for (int i = 0; i < STORAGE_OPS_SAFE * 3; i++)
        many[i] = storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "k", "v", NULL);
    struct storage_commit bomb = {"w", "100.5", "me", 4, many, STORAGE_OPS_SAFE * 3, 0};
    assert_int_equal(storage->type->commit(storage, &bomb, &err), -1);
    assert_int_equal(err.code, ERROR_LIMIT);
    free(many);
    free(ops);
    free(keys);
    free(uuids);
    free(values);
    storage_close(storage);
}

/* ---- servers that do not serve ---- */

static void test_absent_server(void **state)
{
    (void)state;
    struct redis_fake fake;
    struct storage_found found = {0};
    int fd;
    assert_int_equal(redis_fake_start(&fake, NULL, 0, false), 0);
    redis_fake_stop(&fake);
    struct storage *storage = open_on(fake.port); /* connects with the first call only */
    assert_int_equal(storage->type->workspaces(storage, storage_found_add, &found, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), -1);
    assert_claim_fails(storage, ERROR_UNAVAILABLE, "127.0.0.1:");
    assert_commit_fails(storage, 1, ERROR_UNAVAILABLE, "127.0.0.1:");
    assert_int_equal(storage->type->watch(storage, "w", &fd, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_int_equal(storage->type->watch_read(storage, &err), -1);
    storage_close(storage);
}

static void test_strange_answers(void **state)
{
    (void)state;
    static const char *const answers[] = {"+OK\r\n",
                                          ":1\r\n",
                                          "$-1\r\n",
                                          "*0\r\n",
                                          "*1\r\n:1\r\n",
                                          "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n",
                                          "*1\r\n$7\r\nclaimed\r\n",
                                          "*3\r\n$4\r\ntype\r\n:1\r\n:2\r\n",
                                          "*1\r\n$9\r\ncommitted\r\n"};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct redis_fake fake;
        struct storage_found found = {0};
        const char *name = "a";
        assert_int_equal(redis_fake_start(&fake, answers[i], strlen(answers[i]), false), 0);
        struct storage *storage = open_on(fake.port);
        assert_int_equal(storage->type->load(storage, "w", STORAGE_TIMERS, storage_found_add, &found, &err),
                         -1);
        assert_int_equal(err.code, ERROR_REFUSED);
        (void)storage->type->workspace_exists(storage, "w", &err);
        assert_true(
            storage->type->get(storage, "w", STORAGE_TIMERS, &name, 1, storage_found_add, &found, &err) <= 0);
        assert_claim_fails(storage, ERROR_REFUSED, "unexpected");
        assert_commit_fails(storage, 1, ERROR_REFUSED, "unexpected");
        storage_close(storage);
        redis_fake_stop(&fake);
    }
}

static void test_passwords(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    assert_int_equal(redis_server_run(&server, NULL), 0);
    COMMAND(&server, "HSET triggerflow-workspaces w 100.5");
    COMMAND(&server, "ACL SETUSER worker on >pw ~* &* +@all");
    COMMAND(&server, "ACL SETUSER nodelete on >pw ~* &* +@all -hdel");
    COMMAND(&server, "ACL SETUSER elsewhere on >pw ~elsewhere-* ~triggerflow-* &* +@all");
    COMMAND(&server, "CONFIG SET requirepass default-pw");
    struct storage *storage = open_on(server.port);
    assert_claim_fails(storage, ERROR_REFUSED, "NOAUTH");
    storage_close(storage);
    struct config config = config_for(server.port, "worker", "wrong");
    storage = open_config(&config);
    assert_claim_fails(storage, ERROR_REFUSED, "WRONGPASS");
    assert_null(strstr(err.message, "wrong"));
    storage_close(storage);
    storage = open_as(server.port, "nodelete");
    assert_claim_fails(storage, ERROR_REFUSED, "can't run this command");
    assert_int_equal(COMMAND(&server, "EXISTS w-checkpoint"), 0); /* refused before anything was written */
    storage_close(storage);
    storage = open_as(server.port, "elsewhere");
    assert_claim_fails(storage, ERROR_REFUSED, "NOPERM");
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), 0);
    storage_close(storage);
    storage = open_as(server.port, "worker");
    assert_int_equal(claim(storage, "w", "me").epoch, 0);
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    storage_close(storage);
    redis_server_done(&server);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct storage *storage = begin();
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    COMMAND(&shared, "CONFIG SET maxmemory 1");
    assert_commit_fails(storage, 2, ERROR_NO_SPACE, "OOM");
    COMMAND(&shared, "CONFIG SET maxmemory 0");
    assert_stored(&shared, "w-checkpoint", "epoch", "1");
    assert_stored(&shared, "w-triggers", "refused", NULL);
    assert_int_equal(commit(storage, 2, NULL, 0), 0);
    storage_close(storage);
}

static bool replica_in_step(struct redis_server *replica)
{
    redisReply *reply = redis_server_do(replica, "HGET triggerflow-workspaces w");
    bool there = reply && reply->type == REDIS_REPLY_STRING;
    freeReplyObject(reply);
    return there;
}

static void test_replica(void **state)
{
    (void)state;
    need_server();
    struct redis_server replica;
    char port[12];
    COMMAND(&shared, "HSET triggerflow-workspaces w 100.5");
    COMMAND(&shared, "CONFIG SET repl-diskless-sync-delay 0");
    snprintf(port, sizeof port, "%d", shared.port);
    assert_int_equal(redis_server_run(&replica, (const char *[]){"--replicaof", "127.0.0.1", port, NULL}), 0);
    for (uint64_t deadline = clock_now_ns() + 30 * CLOCK_S; !replica_in_step(&replica);) {
        assert_true(clock_now_ns() < deadline);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    struct storage *storage = open_on(replica.port);
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), 0);
    assert_claim_fails(storage, ERROR_NO_SPACE, "READONLY");
    storage_close(storage);
    redis_server_done(&replica);
}

static void test_cluster(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    assert_int_equal(redis_server_run(&server, (const char *[]){"--cluster-enabled", "yes", NULL}), 0);
    struct storage *storage = open_on(server.port);
    assert_claim_fails(storage, ERROR_REFUSED, "Cluster");
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), -1); /* and every time */
    assert_int_equal(err.code, ERROR_REFUSED);
    storage_close(storage);
    redis_server_done(&server);
}

static void test_server_restart(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    assert_int_equal(
        redis_server_run(&server, (const char *[]){"--appendonly", "yes", "--appendfsync", "always", NULL}),
        0);
    COMMAND(&server, "HSET triggerflow-workspaces w 100.5");
    struct storage *storage = open_on(server.port);
    claim(storage, "w", "me");
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    assert_int_equal(redis_server_restart(&server), 0); /* also forgets the scripts */
    assert_int_equal(commit(storage, 2, NULL, 0), 0);
    redis_server_kill(&server);
    assert_commit_fails(storage, 3, ERROR_UNAVAILABLE, "127.0.0.1:");
    assert_int_equal(redis_server_restart(&server), 0);
    assert_int_equal(commit(storage, 3, NULL, 0), 0);
    assert_stored(&server, "w-checkpoint", "epoch", "3");
    storage_close(storage);
    redis_server_done(&server);
}

static void test_tls(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    char cert[96];
    char key[96];
    int fd;
    assert_int_equal(redis_server_init(&server), 0);
    if (redis_server_certificate(&server) < 0) {
        redis_server_done(&server);
        print_message("skipped: no openssl program\n");
        skip();
    }
    snprintf(cert, sizeof cert, "%s/cert.pem", server.dir);
    snprintf(key, sizeof key, "%s/key.pem", server.dir);
    const char *const arguments[] = {"--tls-cert-file",
                                     cert,
                                     "--tls-key-file",
                                     key,
                                     "--tls-ca-cert-file",
                                     cert,
                                     "--tls-auth-clients",
                                     "no",
                                     NULL};
    assert_int_equal(redis_server_start(&server, true, arguments), 0);
    struct config config = config_for(server.port, "", "");
    config.storage_tls = true;
    config.storage_host = text("localhost");
    struct storage *storage = open_config(&config);
    assert_claim_fails(storage, ERROR_REFUSED, "certificate");
    storage_close(storage);
    config.storage_tls_ca = cert;
    storage = open_config(&config);
    struct storage_claim found;
    for (int i = 0; i < 3; i++) /* the server's session tickets come in between */
        assert_int_equal(storage->type->claim(storage, "w", "me", &found, &err), STORAGE_ABSENT);
    assert_int_equal(storage->type->watch(storage, "w", &fd, &err), 0);
    assert_int_equal(storage->type->watch_read(storage, &err), STORAGE_ABSENT);
    storage_close(storage);
    redis_server_done(&server);
}

/* ---- watching ---- */

static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) > 0;
}

/* The server sends a notification before it takes its next command, so after a PING it is there. */
static void assert_watch_silent(struct storage *storage, int fd)
{
    COMMAND(&shared, "PING");
    assert_false(readable(fd, 0));
    assert_int_equal(storage->type->watch_read(storage, &err), STORAGE_ABSENT);
}

static void assert_watch_told(struct storage *storage, int fd)
{
    assert_true(readable(fd, 20000));
    assert_int_equal(storage->type->watch_read(storage, &err), 0);
    assert_int_equal(storage->type->watch_read(storage, &err), STORAGE_ABSENT);
}

/* Arms; the descriptor is to stay the same (*fd < 0: is new). */
static void arm(struct storage *storage, int *fd)
{
    int armed = -1;
    if (storage->type->watch(storage, "w", &armed, &err) != 0)
        fail_msg("watch: %s", err.message);
    if (*fd >= 0)
        assert_int_equal(armed, *fd);
    *fd = armed;
}

static void test_watch(void **state)
{
    (void)state;
    struct storage *storage = begin();
    int fd = -1;
    arm(storage, &fd);
    assert_watch_silent(storage, fd);
    COMMAND(&shared, "HSET w-triggers t x"); /* makes the key */
    assert_watch_told(storage, fd);
    COMMAND(&shared, "HSET w-triggers t y"); /* one-shot */
    assert_watch_silent(storage, fd);
    arm(storage, &fd);
    assert_watch_silent(storage, fd);
    COMMAND(&shared, "HSET w-triggersX t x");
    COMMAND(&shared, "HSET w-trigger t x");
    COMMAND(&shared, "HSET w-event_sources2 t x");
    COMMAND(&shared, "HSET other-triggers t x");
    COMMAND(&shared, "HSET w-timers t x");
    assert_watch_silent(storage, fd);
    COMMAND(&shared, "HSET w-event_sources s x");
    assert_watch_told(storage, fd);
    COMMAND(&shared, "HDEL w-triggers t"); /* the other set has not changed so far */
    assert_watch_told(storage, fd);
    arm(storage, &fd);
    COMMAND(&shared, "DEL w-event_sources");
    assert_watch_told(storage, fd);
    arm(storage, &fd);
    COMMAND(&shared, "FLUSHALL");
    assert_watch_told(storage, fd);
    arm(storage, &fd);
    arm(storage, &fd); /* twice is once */
    COMMAND(&shared, "HSET w-triggers t x");
    assert_watch_told(storage, fd);
    COMMAND(&shared, "HSET w-triggers t y");
    assert_watch_silent(storage, fd);
    storage_close(storage);
}

static int count_field(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    (void)key, (void)key_len, (void)value, (void)value_len;
    (*(int *)data)++;
    return 0;
}

/* A commit is told of once, as anybody's change; neither it nor a load arms anything. */
static void test_watch_own_commits(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op ops[] = {storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "t", "{}", NULL),
                               storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "absent", "{}", ""),
                               storage_op_of(STORAGE_EVENT_SOURCES, STORAGE_PUT, "s", "{}", NULL),
                               storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "1", "{}", NULL)};
    int fd = -1;
    int loaded = 0;
    uint64_t epoch = 0;
    arm(storage, &fd);
    assert_int_equal(commit(storage, ++epoch, ops + 1, 1), 0); /* changes nothing */
    assert_int_equal(commit(storage, ++epoch, ops + 3, 1), 0);
    assert_watch_silent(storage, fd);
    assert_int_equal(commit(storage, ++epoch, ops, 4), 0);
    COMMAND(&shared, "PING");
    assert_watch_told(storage, fd);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(commit(storage, ++epoch, ops, 4), 0);
        assert_int_equal(storage->type->load(storage, "w", STORAGE_TRIGGERS, count_field, &loaded, &err), 0);
    }
    assert_int_equal(loaded, 100);
    assert_watch_silent(storage, fd);
    COMMAND(&shared, "HSET w-triggers t x");
    assert_watch_silent(storage, fd);
    arm(storage, &fd);
    assert_int_equal(commit(storage, ++epoch, ops + 3, 1), 0);
    COMMAND(&shared, "HSET w-triggers t y");
    assert_watch_told(storage, fd);
    storage_close(storage);
}

/* Either of the two connections breaks. */
static void test_watch_reconnect(void **state)
{
    (void)state;
    static const char *const kills[] = {"CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE normal"};
    struct storage *storage = begin();
    int fd = -1;
    arm(storage, &fd);
    for (size_t i = 0; i < 2; i++) {
        COMMAND(&shared, kills[i]);
        assert_true(readable(fd, 20000));
        assert_int_equal(storage->type->watch_read(storage, &err), -1);
        assert_int_equal(err.code, ERROR_UNAVAILABLE);
        assert_int_equal(storage->type->watch_read(storage, &err), -1);
        arm(storage, &fd);
        COMMAND(&shared, "HSET w-triggers t 1");
        assert_watch_told(storage, fd);
        COMMAND(&shared, kills[i]); /* found by the next watch */
        arm(storage, &fd);
        COMMAND(&shared, "HSET w-event_sources t 2");
        assert_watch_told(storage, fd);
        COMMAND(&shared, kills[i]); /* found by another call */
        assert_int_equal(storage->type->workspace_exists(storage, "w", &err), 0);
        assert_true(readable(fd, 20000));
        assert_int_equal(storage->type->watch_read(storage, &err), -1);
        arm(storage, &fd);
    }
    COMMAND(&shared, "HSET w-triggers t 3");
    assert_watch_told(storage, fd);
    storage_close(storage);
}

static void test_watch_restart(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    int fd = -1;
    assert_int_equal(redis_server_run(&server, NULL), 0);
    COMMAND(&server, "HSET triggerflow-workspaces w 100.5");
    struct storage *storage = open_on(server.port);
    claim(storage, "w", "me");
    arm(storage, &fd);
    redis_server_kill(&server);
    assert_int_equal(commit(storage, 1, NULL, 0), -1);
    assert_true(readable(fd, 20000));
    assert_int_equal(storage->type->watch_read(storage, &err), -1);
    assert_int_equal(storage->type->watch(storage, "w", &fd, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_int_equal(redis_server_restart(&server), 0);
    arm(storage, &fd);
    COMMAND(&server, "HSET w-triggers t x");
    assert_watch_told(storage, fd);
    storage_close(storage);
    redis_server_done(&server);
}

static void test_watch_refused(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    int fd = -1;
    assert_int_equal(redis_server_run(&server, NULL), 0);
    COMMAND(&server, "ACL SETUSER nochannel on >pw ~* resetchannels +@all");
    COMMAND(&server, "ACL SETUSER notracking on >pw ~* &* +@all -client|tracking");
    COMMAND(&server, "ACL SETUSER nocaching on >pw ~* &* +@all -client|caching");
    COMMAND(&server, "ACL SETUSER nosubscribe on >pw ~* &* +@all -subscribe");
    COMMAND(&server, "ACL SETUSER nokeys on >pw ~triggerflow-workspaces &* +@all");
    struct storage *storage = open_as(server.port, "nochannel");
    assert_int_equal(storage->type->watch(storage, "w", &fd, &err), STORAGE_ABSENT);
    assert_int_equal(storage->type->workspace_exists(storage, "w", &err), STORAGE_ABSENT);
    storage_close(storage);
    static const char *const others[] = {"notracking", "nocaching", "nosubscribe", "nokeys"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        storage = open_as(server.port, others[i]);
        assert_int_equal(storage->type->watch(storage, "w", &fd, &err), STORAGE_ABSENT);
        assert_int_equal(storage->type->watch_read(storage, &err), -1); /* nothing is watched */
        storage_close(storage);
    }
    /* Permitted in the meantime. */
    storage = open_as(server.port, "nocaching");
    assert_int_equal(storage->type->watch(storage, "w", &fd, &err), STORAGE_ABSENT);
    COMMAND(&server, "ACL SETUSER nocaching +client|caching");
    fd = -1;
    arm(storage, &fd);
    COMMAND(&server, "HSET w-triggers t x");
    assert_watch_told(storage, fd);
    storage_close(storage);
    redis_server_done(&server);
}

/* ---- */

static int start_shared(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    return redis_server_available() ? redis_server_run(&shared, NULL) : 0;
}

static int stop_shared(void **state)
{
    (void)state;
    redis_server_done(&shared);
    return 0;
}

static int flush(void **state)
{
    (void)state;
    if (shared.pid)
        COMMAND(&shared, "FLUSHALL");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_registry, flush),
        cmocka_unit_test_setup(test_workspaces, flush),
        cmocka_unit_test_setup(test_load_and_get, flush),
        cmocka_unit_test_setup(test_claim, flush),
        cmocka_unit_test_setup(test_durability, flush),
        cmocka_unit_test_setup(test_wrong_types, flush),
        cmocka_unit_test_setup(test_newer_format, flush),
        cmocka_unit_test_setup(test_leftover, flush),
        cmocka_unit_test_setup(test_fenced, flush),
        cmocka_unit_test_setup(test_rolled_back, flush),
        cmocka_unit_test_setup(test_lost_answer, flush),
        cmocka_unit_test_setup(test_script_flush, flush),
        cmocka_unit_test_setup(test_large_commit, flush),
        cmocka_unit_test_setup(test_absent_server, flush),
        cmocka_unit_test_setup(test_strange_answers, flush),
        cmocka_unit_test_setup(test_passwords, flush),
        cmocka_unit_test_setup(test_out_of_memory, flush),
        cmocka_unit_test_setup(test_replica, flush),
        cmocka_unit_test_setup(test_cluster, flush),
        cmocka_unit_test_setup(test_server_restart, flush),
        cmocka_unit_test_setup(test_tls, flush),
        cmocka_unit_test_setup(test_watch, flush),
        cmocka_unit_test_setup(test_watch_own_commits, flush),
        cmocka_unit_test_setup(test_watch_reconnect, flush),
        cmocka_unit_test_setup(test_watch_restart, flush),
        cmocka_unit_test_setup(test_watch_refused, flush),
    };
    return cmocka_run_group_tests_name("storage", tests, start_shared, stop_shared);
}
