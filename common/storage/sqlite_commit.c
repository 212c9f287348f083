/* A worker's two writes to its workspace in SQLite, and its watch. Thread: one at a time. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/storage/sqlite_internal.h"

#define CHECK_PAGES 1024                         /* a file of up to so many is looked through at each start */
#define CLAIMED_CACHE "PRAGMA cache_size=-8192;" /* KiB; of pages that are used only */

/* ---- claim ---- */

/* What only a look at all pages finds: an index that does not fit its table. */
static int see_result(void *data, int n, char **values, char **names)
{
    (void)names;
    if (n > 0 && values[0] && strcmp(values[0], "ok") != 0)
        snprintf(data, 100, "%s", values[0]);
    return 0;
}

static int check_whole(struct sqlite_file *file, struct error *err)
{
    char found[100] = "";
    char pages[24] = "";
    int rc = sqlite3_exec(file->db, "PRAGMA page_count", see_result, pages, NULL);
    if (rc == SQLITE_OK && atoll(pages) <= CHECK_PAGES)
        rc = sqlite3_exec(file->db, "PRAGMA integrity_check(1)", see_result, found, NULL);
    if (rc != SQLITE_OK)
        return sqlite_file_failed(file, rc, err);
    return found[0] ? sqlite_file_damaged(file, err, found) : 0;
}

static int claim(struct sqlite_storage *s, struct sqlite_file *file, const char *writer,
                 struct storage_claim *ret_claim, struct error *err)
{
    struct sqlite_state state;
    if (check_whole(file, err) < 0 || sqlite_file_run(file, CLAIMED_CACHE, err) < 0 ||
        sqlite_file_begin(s, file, err) < 0 || sqlite_state_read(file, &state, err) < 0)
        return -1;
    snprintf(state.writer, sizeof state.writer, "%s", writer);
    if (sqlite_state_write(file, &state, err) < 0 || sqlite_file_commit(file, err) < 0)
        return -1;
    *ret_claim = (struct storage_claim){.epoch = state.epoch, .durable = true, .durability = "always"};
    memcpy(ret_claim->creation, state.creation, sizeof ret_claim->creation);
    return 0;
}

int sqlite_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                         struct storage_claim *ret_claim, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    int rc = sqlite_workspace_locked(s, workspace, &file, err);
    if (rc != 0)
        return rc;
    rc = claim(s, file, writer, ret_claim, err);
    sqlite_file_rollback(file);
    sqlite_directory_unlock(s);
    return rc;
}

/* ---- commit ---- */

/* 0: it is to be written; 1: it is written already. */
static int judge(const struct sqlite_file *file, const struct storage_commit *commit,
                 const struct sqlite_state *state, struct error *err)
{
    if (strcmp(state->creation, commit->creation) != 0) {
        error_set(err, ERROR_FENCED, "%s: workspace %s was created anew at %s (ours: %.60s)", file->path,
                  commit->workspace, state->creation, commit->creation);
        return STORAGE_FENCED;
    }
    if (state->writer[0] && strcmp(state->writer, commit->writer) != 0) {
        error_set(err, ERROR_FENCED, "%s: workspace %s belongs to another writer, %s", file->path,
                  commit->workspace, state->writer);
        return STORAGE_FENCED;
    }
    if (state->writer[0] && state->epoch == commit->epoch)
        return 1;
    if (state->writer[0] && state->epoch == commit->epoch - 1)
        return 0;
    error_set(err, ERROR_FENCED,
              "%s: workspace %s: epoch %llu is stored, not %llu: the storage has lost data", file->path,
              commit->workspace, (unsigned long long)state->epoch, (unsigned long long)commit->epoch - 1);
    return STORAGE_ROLLED_BACK;
}

static bool deletes(const struct storage_op *op)
{
    return op->kind == STORAGE_DELETE || op->kind == STORAGE_DELETE_IF;
}

static int consume_log(struct sqlite_file *file, uint64_t up_to, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_LOG_CONSUME, err);
    if (!stmt)
        return -1;
    sqlite3_bind_int64(stmt, 1, up_to < INT64_MAX ? (sqlite3_int64)up_to : INT64_MAX);
    return sqlite_file_done(file, stmt, sqlite3_step(stmt), err);
}

static int write_changes(struct sqlite_file *file, const struct storage_commit *commit,
                         struct sqlite_state *state, struct error *err)
{
    size_t n_deletes = 0;
    for (size_t i = 0; i < commit->n_ops; i++) {
        assert(commit->ops[i].kind != STORAGE_PUT_NEW);
        n_deletes += deletes(&commit->ops[i]);
        if (!deletes(&commit->ops[i]) && sqlite_rows_apply(file, &commit->ops[i], err) < 0)
            return -1;
    }
    for (size_t i = 0; i < commit->n_ops && n_deletes; i++)
        if (deletes(&commit->ops[i]) && sqlite_rows_apply(file, &commit->ops[i], err) < 0)
            return -1;
    if (commit->log_consumed && consume_log(file, commit->log_consumed, err) < 0)
        return -1;
    state->epoch = commit->epoch;
    return sqlite_state_write(file, state, err) < 0 || sqlite_file_commit(file, err) < 0 ? -1 : 0;
}

int sqlite_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    struct sqlite_state state;
    assert(commit->epoch > 0 && commit->log_consumed < UINT64_MAX);
    int rc = sqlite_workspace(s, commit->workspace, &file, err);
    if (rc == STORAGE_ABSENT) {
        error_set(err, ERROR_FENCED, "workspace %s is gone", commit->workspace);
        return STORAGE_FENCED;
    }
    if (rc < 0 || sqlite_file_begin(s, file, err) < 0)
        return -1;
    rc = sqlite_state_read(file, &state, err);
    if (rc == 0)
        rc = judge(file, commit, &state, err);
    if (rc == 0)
        rc = write_changes(file, commit, &state, err);
    else if (rc == 1)
        rc = 0;
    sqlite_file_rollback(file);
    return rc;
}
_Static_assert(STORAGE_FENCED != 1 && STORAGE_ROLLED_BACK != 1, "1 is judge's own");

/* ---- watching ----
 * SQLite tells nobody of a commit. A timer asks every trigger_refresh, for the price of one read of the log's
 * header, whether another connection has written; the trigger API also sends a running worker a message. */

static int data_version(struct sqlite_file *file, int64_t *ret_version, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_DATA_VERSION, err);
    if (!stmt)
        return -1;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret_version = sqlite3_column_int64(stmt, 0);
    return sqlite_file_done(file, stmt, rc, err);
}

static int start_timer(struct sqlite_storage *s, struct error *err)
{
    uint64_t every = s->watch_every_ns > (int64_t)CLOCK_S ? (uint64_t)s->watch_every_ns : CLOCK_S;
    struct timespec step = {.tv_sec = (time_t)(every / CLOCK_S), .tv_nsec = (long)(every % CLOCK_S)};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "a timer for the storage");
    if (timerfd_settime(fd, 0, &(struct itimerspec){step, step}, NULL) < 0) {
        close(fd);
        return error_set_errno(err, errno, "a timer for the storage");
    }
    s->watch_fd = fd;
    return 0;
}

int sqlite_storage_watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    int64_t version = 0;
    int rc = sqlite_workspace(s, workspace, &file, err);
    if (rc != 0)
        return rc;
    if (data_version(file, &version, err) < 0 || (s->watch_fd < 0 && start_timer(s, err) < 0))
        return -1;
    snprintf(s->watched, sizeof s->watched, "%s", workspace);
    s->watched_serial = file->serial;
    s->watched_version = version;
    *ret_fd = s->watch_fd;
    return 0;
}

int sqlite_storage_watch_read(struct storage *storage, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    int64_t version = 0;
    uint64_t expired;
    if (!s->watched[0])
        return error_set(err, ERROR_UNAVAILABLE, "nothing is watched");
    if (read(s->watch_fd, &expired, sizeof expired) < 0 && errno == EAGAIN)
        return STORAGE_ABSENT;
    int rc = sqlite_workspace(s, s->watched, &file, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (data_version(file, &version, err) < 0)
        return -1;
    return file->serial == s->watched_serial && version == s->watched_version ? STORAGE_ABSENT : 0;
}
