/* The SQLite back end's own: its files, what it makes of damaged, full and read-only ones, and that a process
 * killed at any time loses nothing and leaves nothing half done. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"
#include "tests/support/storage_bed.h"

#define ROWS 40 /* triggers of the usual workspace */

static struct storage_bed bed; /* cleared before each test */
static struct error err;
static unsigned seed; /* printed when a test of chance fails */

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
        fail_msg("line %d: %s is %d, not %d: %s", line, call, rc, expected, rc != 0 ? err.message : "");
}

#define ASSERT_FAILS(call, expected, words)                                                          \
    do {                                                                                             \
        memset(&err, 0, sizeof err);                                                                 \
        ASSERT_RC(call, -1);                                                                         \
        if (err.code != (expected) || !strstr(err.message, words))                                   \
            fail_msg("line %d: %s: code %s, message %s", __LINE__, #call, error_code_name(err.code), \
                     err.message);                                                                   \
    } while (0)

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/state%s%s", bed.dir, *name ? "/" : "", name);
    return path;
}

/* Runs SQL on a file, as a person might. */
static void by_hand(const char *name, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path_of(name), &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static struct storage_op put(enum storage_set set, const char *key, const char *value)
{
    return (struct storage_op){.set = set,
                               .kind = STORAGE_PUT,
                               .key = key,
                               .key_len = strlen(key),
                               .value = value,
                               .value_len = strlen(value)};
}

static int claim(struct storage *storage, const char *workspace, struct storage_claim *ret_claim)
{
    return storage->type->claim(storage, workspace, "me", ret_claim, &err);
}

static int commit(struct storage *storage, const char *workspace, uint64_t epoch,
                  const struct storage_op *ops, size_t n)
{
    struct storage_commit c = {workspace, "100.5", "me", epoch, ops, n, 0};
    return storage->type->commit(storage, &c, &err);
}

static int append(struct storage *storage, uint64_t number, const void *events, size_t len)
{
    struct storage_log_group group = {number, events, len, "ids", 3};
    return storage->type->log_append(storage, "w", "me", &group, 0, &err);
}

/* ROWS triggers that all say the epoch. */
struct rows {
    char keys[ROWS][24];
    char values[ROWS][128];
    struct storage_op ops[ROWS];
};

static void fill_rows(struct rows *rows, uint64_t epoch)
{
    for (int i = 0; i < ROWS; i++) {
        snprintf(rows->keys[i], sizeof rows->keys[i], "trigger-%d", i);
        snprintf(rows->values[i], sizeof rows->values[i],
                 "{\"uuid\":\"u%d\",\"epoch\":%llu,\"padding\":\"%0*d\"}", i, (unsigned long long)epoch, i,
                 0);
        rows->ops[i] = put(STORAGE_TRIGGERS, rows->keys[i], rows->values[i]);
    }
}

/* Whether what is loaded is what fill_rows has written. */
struct expectation {
    struct rows rows;
    bool seen[ROWS];
    size_t n;
    size_t wrong;
};

static int expect_row(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct expectation *e = data;
    e->n++;
    for (int i = 0; i < ROWS; i++)
        if (strlen(e->rows.keys[i]) == key_len && memcmp(e->rows.keys[i], key, key_len) == 0) {
            e->wrong +=
                e->seen[i] || strlen(e->rows.values[i]) != len || memcmp(e->rows.values[i], value, len) != 0;
            e->seen[i] = true;
            return 0;
        }
    e->wrong++;
    return 0;
}

/* 0 all of it, and nothing else; 1 not; -1 the storage has refused. */
static int rows_stored(struct storage *storage, const char *workspace, uint64_t epoch)
{
    static struct expectation e;
    memset(&e, 0, sizeof e);
    fill_rows(&e.rows, epoch);
    if (storage->type->load(storage, workspace, STORAGE_TRIGGERS, expect_row, &e, &err) < 0)
        return -1;
    return e.n == ROWS && e.wrong == 0 ? 0 : 1;
}

static struct storage *begin(void)
{
    static struct rows rows;
    struct storage *storage = connection();
    struct storage_claim found;
    fill_rows(&rows, 1);
    ASSERT_RC(storage->type->create(storage, "w", "100.5", NULL, 0, &err), 0);
    ASSERT_RC(claim(storage, "w", &found), 0);
    assert_int_equal(found.epoch, 0);
    assert_true(found.durable);
    assert_string_equal(found.durability, "always");
    ASSERT_RC(commit(storage, "w", 1, rows.ops, ROWS), 0);
    return storage;
}

static mode_t mode_of(const char *name)
{
    struct stat st;
    assert_int_equal(lstat(path_of(name), &st), 0);
    return st.st_mode & 07777;
}

/* ---- files ---- */

static void test_modes(void **state)
{
    (void)state;
    mode_t old = umask(0);
    struct storage *storage = begin();
    umask(old);
    assert_int_equal(mode_of(""), 0700);
    assert_int_equal(mode_of("workspaces"), 0700);
    static const char *const files[] = {"triggerflow.db", "triggerflow.db-wal", "workspaces/w.db",
                                        "workspaces/w.db-wal", "workspaces/w.db-shm"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        assert_int_equal(mode_of(files[i]), 0600);
    storage_close(storage);
    assert_int_equal(access(path_of("workspaces/w.db-wal"), F_OK), -1); /* one file to copy */
    assert_int_equal(chmod(path_of(""), 0770), 0);
    storage = connection();
    ASSERT_FAILS(storage->type->workspace_exists(storage, "w", &err), ERROR_REFUSED, "mode 0770");
    assert_int_equal(chmod(path_of(""), 0700), 0);
    ASSERT_RC(storage->type->workspace_exists(storage, "w", &err), 0); /* on the same handle */
    storage_close(storage);
}

static void test_newer_format(void **state)
{
    (void)state;
    struct storage_claim found;
    struct storage *storage = begin();
    by_hand("workspaces/w.db", "UPDATE state SET format = 2");
    ASSERT_FAILS(commit(storage, "w", 2, NULL, 0), ERROR_REFUSED, "format 2 is newer");
    by_hand("workspaces/w.db", "UPDATE state SET format = 1");
    ASSERT_RC(commit(storage, "w", 2, NULL, 0), 0);
    storage_close(storage);
    by_hand("workspaces/w.db", "PRAGMA user_version = 7");
    storage = connection();
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_REFUSED, "format 7 is newer");
    storage_close(storage);
    by_hand("triggerflow.db", "PRAGMA user_version = 2");
    storage = connection();
    ASSERT_FAILS(storage->type->workspace_exists(storage, "w", &err), ERROR_REFUSED,
                 "triggerflow.db: format 2");
    storage_close(storage);
}

static void copy_file(const char *from, const char *to)
{
    char command[600];
    char source[256];
    snprintf(source, sizeof source, "%s", path_of(from));
    snprintf(command, sizeof command, "cp '%s' '%s'", source, path_of(to));
    assert_int_equal(system(command), 0); /* NOLINT(concurrency-mt-unsafe) */
}

static void test_restored_files(void **state)
{
    (void)state;
    struct storage_claim found;
    storage_close(begin());
    copy_file("workspaces/w.db", "backup");
    struct storage *storage = connection();
    for (uint64_t epoch = 2; epoch < 5; epoch++)
        ASSERT_RC(commit(storage, "w", epoch, NULL, 0), 0);
    /* A backup is put in its place while a worker has it open. */
    by_hand("workspaces/w.db", "PRAGMA wal_checkpoint(TRUNCATE)");
    copy_file("backup", "restored");
    char restored[256];
    snprintf(restored, sizeof restored, "%s", path_of("restored"));
    assert_int_equal(rename(restored, path_of("workspaces/w.db")), 0);
    assert_int_equal(unlink(path_of("workspaces/w.db-wal")), 0);
    assert_int_equal(unlink(path_of("workspaces/w.db-shm")), 0);
    ASSERT_RC(commit(storage, "w", 5, NULL, 0), STORAGE_ROLLED_BACK);
    assert_int_equal(err.code, ERROR_FENCED);
    assert_int_equal(rows_stored(storage, "w", 1), 0);
    /* One of an earlier incarnation. */
    ASSERT_RC(storage->type->remove(storage, "w", &err), 0);
    ASSERT_RC(storage->type->create(storage, "w", "200.5", NULL, 0, &err), 0);
    copy_file("backup", "workspaces/w.db");
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_REFUSED, "created at 100.5");
    assert_int_equal(unlink(path_of("workspaces/w.db")), 0);
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_REFUSED, "w.db is missing");
    ASSERT_RC(storage->type->remove(storage, "w", &err), 0);
    ASSERT_RC(claim(storage, "w", &found), STORAGE_ABSENT);
    storage_close(storage);
}

static void test_left_over(void **state)
{
    (void)state;
    struct storage_claim found;
    struct storage *storage = begin();
    int result;
    struct storage_op op = put(STORAGE_TRIGGERS, "t", "{}");
    /* As a create or remove leaves it that was cut off. */
    by_hand("triggerflow.db", "DELETE FROM workspaces");
    ASSERT_RC(storage->type->workspace_exists(storage, "w", &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->edit(storage, "w", &op, 1, &result, &err), STORAGE_ABSENT);
    ASSERT_RC(claim(storage, "w", &found), STORAGE_ABSENT);
    ASSERT_RC(storage->type->create(storage, "w", "300", NULL, 0, &err), 0);
    ASSERT_RC(commit(storage, "w", 2, NULL, 0), STORAGE_FENCED);
    ASSERT_RC(claim(storage, "w", &found), 0);
    assert_string_equal(found.creation, "300");
    assert_int_equal(rows_stored(storage, "w", 1), 1);
    storage_close(storage);
}

static size_t open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t n = 0;
    assert_non_null(dir);
    while (readdir(dir)) /* NOLINT(concurrency-mt-unsafe) */
        n++;
    closedir(dir);
    return n;
}

static void test_many_workspaces(void **state)
{
    (void)state;
    enum { N = 150 };
    struct storage *storage = connection();
    size_t before = open_descriptors();
    int result;
    char name[16];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "w%d", i);
        struct storage_op op = put(STORAGE_TRIGGERS, "t", name);
        ASSERT_RC(storage->type->create(storage, name, "1", &op, 1, &err), 0);
    }
    for (int i = 0; i < 3 * N; i++) {
        static const char *const keys[] = {"t"};
        struct expectation ignored = {.n = 0};
        snprintf(name, sizeof name, "w%d", i * 7 % N);
        struct storage_op op = put(STORAGE_TIMERS, "t", name);
        ASSERT_RC(storage->type->edit(storage, name, &op, 1, &result, &err), 0);
        ASSERT_RC(storage->type->get(storage, name, STORAGE_TRIGGERS, keys, 1, expect_row, &ignored, &err),
                  0);
        assert_int_equal(ignored.n, 1);
    }
    assert_in_range(open_descriptors(), before, before + 64 * 3 + 5);
    storage_close(storage);
    assert_int_equal(open_descriptors(), before);
}

/* What is written is far more than what the log may hold, with two connections at it. */
static void test_log_file_bounded(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20, GROUPS = 96 };
    struct storage *storage = begin();
    struct storage *source = connection();
    struct stat st;
    char *bytes = calloc(1, SIZE);
    assert_non_null(bytes);
    for (uint64_t i = 1; i <= GROUPS; i++) {
        struct storage_commit c = {"w", "100.5", "me", i + 1, NULL, 0, i - 1};
        ASSERT_RC(append(source, i, bytes, SIZE), 0);
        ASSERT_RC(storage->type->commit(storage, &c, &err), 0);
        assert_int_equal(stat(path_of("workspaces/w.db-wal"), &st), 0);
        assert_in_range(st.st_size, 0, 24 << 20);
    }
    free(bytes);
    assert_int_equal(stat(path_of("workspaces/w.db"), &st), 0);
    assert_in_range(st.st_size, 0, 16 << 20); /* consumed groups make room for new ones */
    storage_close(source);
    storage_close(storage);
}

/* ---- waiting and watching ---- */

static sqlite3 *holder;
static _Atomic int beats;

static void let_go(void *data)
{
    (void)data;
    if (atomic_fetch_add(&beats, 1) == 0)
        sqlite3_exec(holder, "COMMIT", NULL, NULL, NULL);
}

static void test_busy(void **state)
{
    (void)state;
    struct storage *storage = begin();
    storage->heartbeat = let_go;
    assert_int_equal(sqlite3_open(path_of("workspaces/w.db"), &holder), SQLITE_OK);
    assert_int_equal(sqlite3_exec(holder, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    ASSERT_RC(commit(storage, "w", 2, NULL, 0), 0); /* the heartbeat lets go of it */
    assert_int_equal(atomic_load(&beats), 1);
    sqlite3_close(holder);
    storage_close(storage);
}

static void test_watch(void **state)
{
    (void)state;
    int fd = -1;
    int again = -1;
    int result;
    struct storage_op op = put(STORAGE_TRIGGERS, "t", "{}");
    bed.config.trigger_refresh_ns = 1000000000;
    struct storage *storage = begin();
    struct storage *api = connection();
    struct pollfd poll_fd = {.events = POLLIN};
    ASSERT_FAILS(storage->type->watch_read(storage, &err), ERROR_UNAVAILABLE, "nothing");
    ASSERT_RC(storage->type->watch(storage, "absent", &fd, &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->watch(storage, "w", &fd, &err), 0);
    ASSERT_RC(commit(storage, "w", 2, NULL, 0), 0); /* our own */
    poll_fd.fd = fd;
    assert_int_equal(poll(&poll_fd, 1, 20000), 1);
    ASSERT_RC(storage->type->watch_read(storage, &err), STORAGE_ABSENT);
    ASSERT_RC(storage->type->watch_read(storage, &err), STORAGE_ABSENT); /* nothing to be read */
    ASSERT_RC(api->type->edit(api, "w", &op, 1, &result, &err), 0);
    assert_int_equal(poll(&poll_fd, 1, 20000), 1);
    ASSERT_RC(storage->type->watch_read(storage, &err), 0);
    ASSERT_RC(storage->type->watch(storage, "w", &again, &err), 0);
    assert_int_equal(again, fd);
    ASSERT_RC(api->type->remove(api, "w", &err), 0);
    assert_int_equal(poll(&poll_fd, 1, 20000), 1);
    ASSERT_RC(storage->type->watch_read(storage, &err), 0);
    /* A namesake is a change, even if its file looks like the one before: freed memory may be used again. */
    ASSERT_RC(api->type->create(api, "w", "200.5", NULL, 0, &err), 0);
    for (int i = 0; i < 3; i++) {
        char creation[16];
        snprintf(creation, sizeof creation, "%d.5", 300 + i);
        ASSERT_RC(storage->type->watch(storage, "w", &again, &err), 0);
        ASSERT_RC(api->type->remove(api, "w", &err), 0);
        ASSERT_RC(api->type->create(api, "w", creation, NULL, 0, &err), 0);
        assert_int_equal(poll(&poll_fd, 1, 20000), 1);
        ASSERT_RC(storage->type->watch_read(storage, &err), 0);
    }
    storage_close(api);
    storage_close(storage);
}

/* ---- damage ---- */

static void test_no_database(void **state)
{
    (void)state;
    struct storage_claim found;
    storage_close(begin());
    copy_file("workspaces/w.db", "backup");
    FILE *file = fopen(path_of("workspaces/w.db"), "w");
    assert_non_null(file);
    for (int i = 0; i < 5000; i++)
        fputs("rubbish ", file);
    fclose(file);
    struct storage *storage = connection();
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_REFUSED, "workspaces/w.db is damaged");
    ASSERT_FAILS(commit(storage, "w", 2, NULL, 0), ERROR_REFUSED, "docs/storage.md");
    assert_int_equal(truncate(path_of("workspaces/w.db"), 0), 0);
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_REFUSED, "no database of Triggerflow");
    copy_file("backup", "workspaces/w.db");
    ASSERT_RC(claim(storage, "w", &found), 0); /* on the same handle */
    assert_int_equal(found.epoch, 1);
    assert_int_equal(rows_stored(storage, "w", 1), 0);
    storage_close(storage);
    by_hand("workspaces/w.db",
            "UPDATE triggers SET value = replace(value, '0', '1') WHERE key = 'trigger-7'");
    storage = connection();
    ASSERT_FAILS(
        storage->type->load(storage, "w", STORAGE_TRIGGERS, expect_row, &(struct expectation){.n = 0}, &err),
        ERROR_REFUSED, "triggers \"trigger-7\" has another checksum");
    by_hand("workspaces/w.db", "UPDATE triggers SET sum = NULL"); /* how a person changes a row */
    assert_int_equal(rows_stored(storage, "w", 1), 1);
    by_hand("triggerflow.db", "DROP TABLE users");
    ASSERT_FAILS(storage->type->users(storage, expect_row, NULL, &err), ERROR_REFUSED, "triggerflow.db");
    ASSERT_RC(storage->type->remove(storage, "w", &err), 0);
    storage_close(storage);
}

/* In a child: uses a file with random bytes in it. 0: it was refused; 1: it has all that was written. */
static int use_damaged(void)
{
    struct storage_claim found;
    struct storage_op ops[2] = {put(STORAGE_TRIGGERS, "trigger-3", "{}"), put(STORAGE_OUTBOX, "9", "{}")};
    static const char *const keys[] = {"trigger-5", "trigger-30"};
    struct expectation e = {.n = 0};
    struct storage *storage = storage_bed_open(&bed);
    if (!storage)
        return 9;
    int rc = claim(storage, "w", &found);
    int result = 0;
    if (rc == 0)
        result = rows_stored(storage, "w", 1);
    if (rc == 0 && result == 1)
        return 3;
    if (rc < 0 || result < 0)
        result = err.code == ERROR_REFUSED ? 0 : 4;
    else
        result = 1;
    /* Whatever it was, going on must not crash. */
    (void)storage->type->get(storage, "w", STORAGE_TRIGGERS, keys, 2, expect_row, &e, &err);
    (void)storage->type->log_read(storage, "w", 0, 1 << 20, NULL, NULL, &err);
    (void)append(storage, 1, "events", 6);
    (void)commit(storage, "w", 2, ops, 2);
    (void)storage->type->edit(storage, "w", ops, 1, &rc, &err);
    (void)storage->type->remove(storage, "w", &err);
    storage_close(storage);
    return result;
}

static int damage(const char *path, off_t size, unsigned *random)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -1;
    int n = 1 + rand_r(random) % 4;
    for (int i = 0; i < n; i++) {
        char byte = (char)rand_r(random);
        if (pwrite(fd, &byte, 1, rand_r(random) % size) != 1)
            n = -1;
    }
    return close(fd) < 0 || n < 0 ? -1 : 0;
}

static void test_random_damage(void **state)
{
    (void)state;
    enum { ROUNDS = 250 };
    unsigned random = seed;
    unsigned refused = 0;
    struct stat st;
    storage_close(begin());
    copy_file("workspaces/w.db", "backup");
    copy_file("triggerflow.db", "list");
    assert_int_equal(stat(path_of("backup"), &st), 0);
    for (int i = 0; i < ROUNDS; i++) {
        int status = 0;
        copy_file("list", "triggerflow.db");
        copy_file("backup", "workspaces/w.db");
        assert_int_equal(damage(path_of("workspaces/w.db"), st.st_size, &random), 0);
        pid_t child = fork();
        if (child == 0)
            _exit(use_damaged());
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
            fail_msg("seed %u, round %d: status %x", seed, i, (unsigned)status);
        refused += WEXITSTATUS(status) == 0;
    }
    assert_in_range(refused, 1, ROUNDS);
    print_message("%u of %d damaged files were refused, the others had lost nothing\n", refused, ROUNDS);
}

/* ---- full and read-only ---- */

/* A small disk of the test's own over the state directory. */
static void mount_small(void)
{
    assert_int_equal(mkdir(path_of(""), 0700), 0);
    if (mount("tmpfs", path_of(""), "tmpfs", 0, "size=3m,mode=0700") < 0) {
        print_message("skipped: mount: %s\n", strerror(errno)); /* NOLINT(concurrency-mt-unsafe) */
        skip();
    }
}

static int unmount_small(void **state)
{
    (void)state;
    (void)umount2(path_of(""), MNT_DETACH);
    return 0;
}

static void fill_disk(void)
{
    static char block[4096];
    int fd = open(path_of("filler"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    while (write(fd, block, sizeof block) > 0)
        ;
    close(fd);
}

static void test_full_disk(void **state)
{
    (void)state;
    enum { SIZE = 300000 };
    struct storage_claim found;
    struct rows *rows = calloc(1, sizeof *rows);
    char *bytes = calloc(1, SIZE);
    assert_non_null(rows);
    assert_non_null(bytes);
    mount_small();
    struct storage *storage = begin();
    struct storage_op large = {.set = STORAGE_OUTBOX,
                               .kind = STORAGE_PUT,
                               .key = "k",
                               .key_len = 1,
                               .value = bytes,
                               .value_len = SIZE};
    for (uint64_t epoch = 2; epoch < 6; epoch++) {
        fill_disk();
        fill_rows(rows, epoch);
        for (int i = 0; i < 3; i++) {
            struct storage_op ops[2] = {rows->ops[0], large};
            ASSERT_FAILS(commit(storage, "w", epoch, ops, 2), ERROR_NO_SPACE, "w.db");
            ASSERT_FAILS(append(storage, epoch, bytes, SIZE), ERROR_NO_SPACE, "w.db");
            ASSERT_FAILS(storage->type->create(storage, "other", "1", NULL, 0, &err), ERROR_NO_SPACE, "");
        }
        assert_int_equal(rows_stored(storage, "w", epoch - 1), 0);
        assert_int_equal(unlink(path_of("filler")), 0);
        ASSERT_RC(commit(storage, "w", epoch, rows->ops, ROWS), 0);
        ASSERT_RC(append(storage, epoch, "events", 6), 0);
        assert_int_equal(rows_stored(storage, "w", epoch), 0);
    }
    ASSERT_RC(storage->type->create(storage, "other", "1", NULL, 0, &err), 0);
    storage_close(storage);
    /* Even a start is possible again on the handle that has failed. */
    fill_disk();
    storage = connection();
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_NO_SPACE, "");
    assert_int_equal(unlink(path_of("filler")), 0);
    ASSERT_RC(claim(storage, "w", &found), 0);
    assert_int_equal(found.epoch, 5);
    storage_close(storage);
    free(rows);
    free(bytes);
}

static void test_read_only_disk(void **state)
{
    (void)state;
    struct storage_claim found;
    mount_small();
    storage_close(begin());
    assert_int_equal(mount("tmpfs", path_of(""), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=3m"), 0);
    struct storage *storage = connection();
    ASSERT_FAILS(claim(storage, "w", &found), ERROR_NO_SPACE, "");
    ASSERT_FAILS(commit(storage, "w", 2, NULL, 0), ERROR_NO_SPACE, "");
    assert_int_equal(mount("tmpfs", path_of(""), "tmpfs", MS_REMOUNT, "size=3m"), 0);
    ASSERT_RC(commit(storage, "w", 2, NULL, 0), 0);
    assert_int_equal(rows_stored(storage, "w", 1), 0);
    storage_close(storage);
}

/* As a user to whom modes apply. */
static int use_read_only_file(void)
{
    struct storage_claim found;
    if (geteuid() == 0 && setuid(65534) < 0)
        return 1;
    struct storage *storage = storage_bed_open(&bed);
    if (!storage)
        return 2;
    if (chmod(path_of("workspaces/w.db"), 0400) < 0)
        return 3;
    if (claim(storage, "w", &found) != -1 || err.code != ERROR_NO_SPACE)
        return 4;
    if (chmod(path_of("workspaces/w.db"), 0) < 0)
        return 5;
    if (claim(storage, "w", &found) != -1 || err.code != ERROR_REFUSED)
        return 6;
    if (chmod(path_of("workspaces/w.db"), 0600) < 0 || claim(storage, "w", &found) != 0 ||
        rows_stored(storage, "w", 1) != 0)
        return 7;
    storage_close(storage);
    return 0;
}

static void test_read_only_file(void **state)
{
    (void)state;
    static const char *const names[] = {"", "workspaces", "triggerflow.db", "workspaces/w.db", "turns"};
    int status = 0;
    storage_close(begin());
    if (geteuid() == 0) {
        assert_int_equal(chmod(bed.dir, 0755), 0);
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            assert_int_equal(chown(path_of(names[i]), 65534, 65534), 0);
    }
    pid_t child = fork();
    if (child == 0)
        _exit(use_read_only_file());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    if (geteuid() == 0) { /* root would leave files there that their owner cannot use */
        struct storage *storage = connection();
        if (geteuid() != 65534)
            ASSERT_FAILS(storage->type->workspace_exists(storage, "w", &err), ERROR_REFUSED, "another user");
        storage_close(storage);
    }
}

/* ---- killed at any time ---- */

/* What the child has been told, in shared memory: the last of each that was begun, and that was answered. */
struct told {
    _Atomic uint64_t epoch_begun, epoch_done;
    _Atomic uint64_t group_begun, group_done;
    _Atomic uint64_t made_begun, made_done;
    _Atomic uint64_t removed_begun, removed_done;
};

static void *append_on(void *data)
{
    struct told *told = data;
    struct storage *storage = storage_bed_open(&bed);
    struct error own;
    for (uint64_t number = atomic_load(&told->group_begun) + 1; storage; number++) {
        char text[64];
        int len = snprintf(text, sizeof text, "group %llu", (unsigned long long)number);
        struct storage_log_group group = {number, text, (size_t)len, text, (size_t)len};
        atomic_store(&told->group_begun, number);
        if (storage->type->log_append(storage, "w", "me", &group, 0, &own) != 0)
            _exit(20);
        atomic_store(&told->group_done, number);
    }
    return NULL;
}

static void *make_and_remove(void *data)
{
    struct told *told = data;
    struct storage *storage = storage_bed_open(&bed);
    struct error own;
    char name[24];
    uint64_t last = atomic_load(&told->made_begun); /* done again unless it was done */
    for (uint64_t i = last + (atomic_load(&told->removed_done) == last); storage; i++) {
        struct rows rows;
        fill_rows(&rows, 1);
        snprintf(name, sizeof name, "made-%llu", (unsigned long long)(i % 4));
        atomic_store(&told->made_begun, i);
        int rc = storage->type->create(storage, name, "5", rows.ops, ROWS, &own);
        if (rc != 0 && rc != STORAGE_EXISTS)
            _exit(21);
        atomic_store(&told->made_done, i);
        snprintf(name, sizeof name, "made-%llu", (unsigned long long)((i + 2) % 4));
        atomic_store(&told->removed_begun, i);
        rc = storage->type->remove(storage, name, &own);
        if (rc != 0 && rc != STORAGE_ABSENT)
            _exit(22);
        atomic_store(&told->removed_done, i);
    }
    return NULL;
}

static void commit_on(struct told *told)
{
    pthread_t threads[2];
    struct storage_claim found;
    struct storage *storage = storage_bed_open(&bed);
    if (!storage || claim(storage, "w", &found) != 0)
        _exit(10);
    atomic_store(&told->epoch_begun, found.epoch);
    if (pthread_create(&threads[0], NULL, append_on, told) != 0 ||
        pthread_create(&threads[1], NULL, make_and_remove, told) != 0)
        _exit(11);
    for (uint64_t epoch = found.epoch + 1;; epoch++) {
        struct rows rows;
        fill_rows(&rows, epoch);
        uint64_t consumed = atomic_load(&told->group_done);
        struct storage_commit c = {
            "w", "100.5", "me", epoch, rows.ops, ROWS, consumed > 50 ? consumed - 50 : 0};
        atomic_store(&told->epoch_begun, epoch);
        if (storage->type->commit(storage, &c, &err) != 0)
            _exit(12);
        atomic_store(&told->epoch_done, epoch);
    }
}

static int check_group(void *data, const struct storage_log_group *group)
{
    uint64_t *last = data;
    char text[64];
    int len = snprintf(text, sizeof text, "group %llu", (unsigned long long)group->number);
    assert_true(*last == 0 || group->number == *last + 1);
    assert_int_equal(group->events_len, len);
    assert_memory_equal(group->events, text, (size_t)len);
    *last = group->number;
    return 0;
}

static void check_made(struct storage *storage, uint64_t which, int known)
{
    char name[24];
    struct storage_claim found;
    snprintf(name, sizeof name, "made-%llu", (unsigned long long)(which % 4));
    int exists = storage->type->workspace_exists(storage, name, &err);
    assert_true(exists == 0 || exists == STORAGE_ABSENT);
    if (known >= 0)
        assert_int_equal(exists, known);
    if (exists == 0) { /* whole, and usable */
        assert_int_equal(rows_stored(storage, name, 1), 0);
        ASSERT_RC(claim(storage, name, &found), 0);
        assert_string_equal(found.creation, "5");
    }
}

/* What is stored after a kill; and what the next life begins with. */
static void check_told(struct told *told)
{
    struct storage_claim found;
    struct storage *storage = connection();
    ASSERT_RC(claim(storage, "w", &found), 0);
    assert_in_range(found.epoch, atomic_load(&told->epoch_done), atomic_load(&told->epoch_begun));
    if (found.epoch > 1)
        assert_int_equal(rows_stored(storage, "w", found.epoch), 0);
    uint64_t last = 0;
    ASSERT_RC(storage->type->log_read(storage, "w", 0, SIZE_MAX, check_group, &last, &err), 0);
    assert_in_range(last, atomic_load(&told->group_done), atomic_load(&told->group_begun));
    uint64_t made = atomic_load(&told->made_begun);
    bool made_done = atomic_load(&told->made_done) == made;
    bool removed_done = atomic_load(&told->removed_done) == made;
    bool removing = atomic_load(&told->removed_begun) == made;
    if (made > 4) {
        check_made(storage, made, made_done ? 0 : -1);
        check_made(storage, made + 2, removed_done ? STORAGE_ABSENT : removing ? -1 : 0);
        check_made(storage, made + 1, STORAGE_ABSENT);
        check_made(storage, made + 3, 0);
    }
    storage_close(storage);
    atomic_store(&told->epoch_done, found.epoch);
    atomic_store(&told->group_begun, last);
    atomic_store(&told->group_done, last);
}

static void test_killed(void **state)
{
    (void)state;
    const char *wanted = getenv("TRIGGERFLOW_KILLS"); /* NOLINT(concurrency-mt-unsafe) */
    int kills = wanted ? atoi(wanted) : 60;
    unsigned random = seed;
    struct told *told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(told, MAP_FAILED);
    storage_close(begin());
    atomic_store(&told->epoch_begun, 1);
    atomic_store(&told->epoch_done, 1);
    for (int i = 0; i < kills; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            commit_on(told);
        nanosleep(&(struct timespec){.tv_nsec = 1000000L * (1 + rand_r(&random) % 80)}, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status))
            fail_msg("seed %u, kill %d: exit status %d", seed, i, WEXITSTATUS(status));
        check_told(told);
    }
    print_message("%d kills: %llu epochs, %llu groups, %llu workspaces\n", kills,
                  (unsigned long long)atomic_load(&told->epoch_done),
                  (unsigned long long)atomic_load(&told->group_done),
                  (unsigned long long)atomic_load(&told->made_done));
    munmap(told, sizeof *told);
}

/* ---- */

static int clear(void **state)
{
    (void)state;
    bed.config.trigger_refresh_ns = 5000000000;
    return storage_bed_clear(&bed);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, clear)
    const struct CMUnitTest tests[] = {
        TEST(test_modes),
        TEST(test_newer_format),
        TEST(test_restored_files),
        TEST(test_left_over),
        TEST(test_many_workspaces),
        TEST(test_log_file_bounded),
        TEST(test_busy),
        TEST(test_watch),
        TEST(test_no_database),
        TEST(test_random_damage),
        cmocka_unit_test_setup_teardown(test_full_disk, clear, unmount_small),
        cmocka_unit_test_setup_teardown(test_read_only_disk, clear, unmount_small),
        TEST(test_read_only_file),
        TEST(test_killed),
    };
    seed = (unsigned)time(NULL);
    if (storage_bed_start(&bed, "sqlite") != 0)
        return 1;
    int failed = cmocka_run_group_tests_name("storage, sqlite alone", tests, NULL, NULL);
    storage_bed_done(&bed);
    return failed;
}
