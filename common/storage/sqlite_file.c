/* One open database file of the SQLite back end: connection, statements, transactions, and what errors mean.
 * Thread: one at a time. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/error.h"
#include "common/storage/sqlite_internal.h"

#define CHECKPOINT_FRAMES 2000 /* pages in the write-ahead log at which they are moved into the file */
/* Debian's default overwrites what is deleted with zeros: every group of the event log would be written
 * twice. */
#define NO_SECURE_DELETE "PRAGMA secure_delete=OFF;"
#define LOG_LIMIT "PRAGMA journal_size_limit=8388608;" /* bytes of it that are kept for the next ones */

static const char *const statements[SQLITE_STATEMENTS] = {
    [SQLITE_BEGIN] = "BEGIN IMMEDIATE",
    [SQLITE_COMMIT] = "COMMIT",
    [SQLITE_STATE_READ] = "SELECT format, creation, epoch, writer, sum FROM state",
    [SQLITE_STATE_WRITE] = "UPDATE state SET creation=?1, epoch=?2, writer=?3, sum=?4",
    [SQLITE_LOG_LAST] = "SELECT number, writer FROM event_ids ORDER BY number DESC LIMIT 1",
    [SQLITE_LOG_PUT] = "INSERT INTO events(number, events, sum) VALUES(?1, ?2, ?3)",
    [SQLITE_LOG_PUT_IDS] = "INSERT INTO event_ids(number, writer, ids, sum) VALUES(?1, ?2, ?3, ?4)",
    [SQLITE_LOG_FORGET] = "DELETE FROM event_ids WHERE number < ?1",
    [SQLITE_LOG_CONSUME] = "DELETE FROM events WHERE number <= ?1",
    [SQLITE_LOG_READ] = "SELECT number, events, sum FROM events WHERE number > ?1 ORDER BY number",
    [SQLITE_LOG_IDS] = "SELECT number, ids, sum FROM event_ids ORDER BY number",
    [SQLITE_DATA_VERSION] = "PRAGMA data_version",
};

/* ---- what errors mean ---- */

int sqlite_file_damaged(const struct sqlite_file *file, struct error *err, const char *what)
{
    return error_set(err, ERROR_REFUSED, "%s is damaged (%s): restore a backup, or see docs/storage.md",
                     file->path, what);
}

static bool is_full(int errnum)
{
    return errnum == ENOSPC || errnum == EDQUOT || errnum == EROFS;
}

static int failed_in_system(struct sqlite_file *file, int rc, struct error *err)
{
    int errnum = sqlite3_system_errno(file->db);
    bool denied = (rc & 0xff) == SQLITE_CANTOPEN && (errnum == EACCES || errnum == EPERM || errnum == ELOOP);
    error_set_errno(err, errnum ? errnum : EIO, "%s: %s", file->path, sqlite3_errstr(rc));
    if (err)
        err->code = is_full(errnum) ? ERROR_NO_SPACE : denied ? ERROR_REFUSED : ERROR_UNAVAILABLE;
    return -1;
}

int sqlite_file_failed(struct sqlite_file *file, int rc, struct error *err)
{
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(err, ERROR_UNAVAILABLE, "%s: another connection keeps it locked", file->path);
    case SQLITE_FULL:
        return error_set(err, ERROR_NO_SPACE, "%s: the disk is full", file->path);
    case SQLITE_READONLY:
        file->stale = true;
        return error_set(err, ERROR_NO_SPACE, "%s: the file or its disk is read-only", file->path);
    case SQLITE_NOMEM:
        return error_set(err, ERROR_MEMORY, "%s: out of memory", file->path);
    case SQLITE_TOOBIG:
        return error_set(err, ERROR_LIMIT, "%s: a value is too large", file->path);
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        file->stale = true;
        return failed_in_system(file, rc, err);
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return error_set(err, ERROR_REFUSED, "%s: no permission", file->path);
    default: /* CORRUPT, NOTADB; ERROR: the schema is not ours */
        file->stale = true;
        return sqlite_file_damaged(file, err, file->db ? sqlite3_errmsg(file->db) : sqlite3_errstr(rc));
    }
}

/* ---- opening ---- */

static int on_busy(void *data, int attempt)
{
    return sqlite_wait(data, (unsigned)attempt);
}

/* After each commit. A failure changes nothing: the log stays longer. */
static int on_commit(void *data, sqlite3 *db, const char *schema, int frames)
{
    (void)data;
    if (frames >= CHECKPOINT_FRAMES)
        (void)sqlite3_wal_checkpoint_v2(db, schema, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    return SQLITE_OK;
}

/* Before SQLite opens it, which would make a read-only log beside a read-only file. 0, STORAGE_ABSENT or -1.
 */
static int look_at(const char *path, struct error *err)
{
    if (faccessat(AT_FDCWD, path, R_OK | W_OK, AT_EACCESS) == 0)
        return 0;
    int errnum = errno;
    if (errnum == ENOENT)
        return STORAGE_ABSENT;
    bool read_only =
        errnum == EROFS || (errnum == EACCES && faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0);
    error_set_errno(err, errnum, "%s", path);
    if (err)
        err->code = read_only                             ? ERROR_NO_SPACE
                    : errnum == EACCES || errnum == ELOOP ? ERROR_REFUSED
                                                          : ERROR_UNAVAILABLE;
    return -1;
}

int sqlite_file_open(struct sqlite_storage *s, const char *path, const char *workspace,
                     struct sqlite_file **ret_file, struct error *err)
{
    int seen = look_at(path, err);
    if (seen != 0)
        return seen;
    struct sqlite_file *file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path))) {
        free(file);
        return error_set(err, ERROR_MEMORY, "out of memory for %s", path);
    }
    snprintf(file->workspace, sizeof file->workspace, "%s", workspace);
    file->serial = ++s->opened;
    int rc = sqlite3_open_v2(path, &file->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, NULL);
    if (rc != SQLITE_OK) {
        sqlite_file_failed(file, rc, err);
        sqlite_file_close(file);
        return -1;
    }
    sqlite3_extended_result_codes(file->db, 1);
    sqlite3_busy_handler(file->db, on_busy, s);
    sqlite3_wal_hook(file->db, on_commit, NULL);
    sqlite3_db_config(file->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (sqlite_file_run(file,
                        "PRAGMA synchronous=FULL; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF;"
                        "PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY;" NO_SECURE_DELETE LOG_LIMIT,
                        err) < 0) {
        sqlite_file_close(file);
        return -1;
    }
    *ret_file = file;
    return 0;
}

void sqlite_file_close(struct sqlite_file *file)
{
    if (!file)
        return;
    for (int table = 0; table < SQLITE_TABLES; table++)
        for (int row = 0; row < SQLITE_ROWS; row++)
            sqlite3_finalize(file->rows[table][row]);
    for (int i = 0; i < SQLITE_STATEMENTS; i++)
        sqlite3_finalize(file->statements[i]);
    int rc = sqlite3_close(file->db);
    assert(rc == SQLITE_OK);
    free(file->path);
    free(file);
}

/* One number that a statement says, or -1. */
static int read_number(struct sqlite_file *file, const char *sql, int64_t *ret_number, struct error *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(file->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret_number = sqlite3_column_int64(stmt, 0);
    int result = rc == SQLITE_ROW ? 0 : sqlite_file_failed(file, rc, err);
    sqlite3_finalize(stmt);
    return result;
}

int sqlite_file_check(struct sqlite_file *file, struct error *err)
{
    int64_t application = 0;
    int64_t format = 0;
    if (read_number(file, "PRAGMA application_id", &application, err) < 0 ||
        read_number(file, "PRAGMA user_version", &format, err) < 0)
        return -1;
    if (application != SQLITE_APPLICATION_ID)
        return sqlite_file_damaged(file, err, "it is no database of Triggerflow");
    if (format < 1 || format > STORAGE_FORMAT)
        return error_set(err, ERROR_REFUSED, "%s: format %lld is newer than this program's (%d)", file->path,
                         (long long)format, STORAGE_FORMAT);
    return sqlite_file_run(file, "PRAGMA journal_mode=WAL", err); /* a restored backup may have lost it */
}

bool sqlite_file_outdated(struct sqlite_file *file)
{
    int moved = 0;
    if (file->stale)
        return true;
    return sqlite3_file_control(file->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK || moved;
}

/* ---- statements ---- */

int sqlite_file_run(struct sqlite_file *file, const char *sql, struct error *err)
{
    int rc = sqlite3_exec(file->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : sqlite_file_failed(file, rc, err);
}

sqlite3_stmt *sqlite_file_statement(struct sqlite_file *file, enum sqlite_statement statement,
                                    struct error *err)
{
    sqlite3_stmt **stmt = &file->statements[statement];
    if (!*stmt) {
        int rc =
            sqlite3_prepare_v3(file->db, statements[statement], -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL);
        if (rc != SQLITE_OK)
            sqlite_file_failed(file, rc, err);
    }
    return *stmt;
}

int sqlite_file_done(struct sqlite_file *file, sqlite3_stmt *stmt, int rc, struct error *err)
{
    int result = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : sqlite_file_failed(file, rc, err);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return result;
}

/* ---- transactions ---- */

static int step_once(struct sqlite_file *file, enum sqlite_statement statement, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, statement, err);
    return stmt ? sqlite_file_done(file, stmt, sqlite3_step(stmt), err) : -1;
}

int sqlite_file_begin(struct sqlite_storage *s, struct sqlite_file *file, struct error *err)
{
    if (sqlite_directory_queue(s, file->workspace, err) < 0)
        return -1;
    int rc = step_once(file, SQLITE_BEGIN, err);
    sqlite_directory_unqueue(s, file->workspace);
    return rc;
}

int sqlite_file_commit(struct sqlite_file *file, struct error *err)
{
    return step_once(file, SQLITE_COMMIT, err);
}

void sqlite_file_rollback(struct sqlite_file *file)
{
    if (!sqlite3_get_autocommit(file->db) &&
        sqlite3_exec(file->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        file->stale = true;
}

/* ---- the state of a workspace ---- */

uint64_t sqlite_sum(const void *key, size_t key_len, const void *value, size_t value_len)
{
    return XXH3_64bits_withSeed(value, value_len, XXH3_64bits(key, key_len));
}

static int64_t state_sum(const struct sqlite_state *state)
{
    char text[sizeof state->writer + 24];
    int len = snprintf(text, sizeof text, "%llu %s", (unsigned long long)state->epoch, state->writer);
    return (int64_t)sqlite_sum(state->creation, strlen(state->creation), text, (size_t)len);
}

static void column_text(sqlite3_stmt *stmt, int column, char *ret_text, size_t room)
{
    const unsigned char *text = sqlite3_column_text(stmt, column);
    snprintf(ret_text, room, "%s", text ? (const char *)text : "");
}

int sqlite_state_read(struct sqlite_file *file, struct sqlite_state *ret_state, struct error *err)
{
    struct sqlite_state state = {.format = 0};
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_STATE_READ, err);
    if (!stmt)
        return -1;
    int rc = sqlite3_step(stmt);
    bool sound = false;
    if (rc == SQLITE_ROW) {
        state.format = sqlite3_column_int64(stmt, 0);
        state.epoch = (uint64_t)sqlite3_column_int64(stmt, 2);
        column_text(stmt, 1, state.creation, sizeof state.creation);
        column_text(stmt, 3, state.writer, sizeof state.writer);
        sound =
            sqlite3_column_type(stmt, 4) == SQLITE_NULL || sqlite3_column_int64(stmt, 4) == state_sum(&state);
    }
    if (sqlite_file_done(file, stmt, rc, err) < 0)
        return -1;
    if (state.format > STORAGE_FORMAT)
        return error_set(err, ERROR_REFUSED, "%s: format %lld is newer than this program's (%d)", file->path,
                         (long long)state.format, STORAGE_FORMAT);
    if (!sound) {
        file->stale = true;
        return sqlite_file_damaged(file, err, "its state has another checksum");
    }
    *ret_state = state;
    return 0;
}

int sqlite_state_write(struct sqlite_file *file, const struct sqlite_state *state, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_STATE_WRITE, err);
    if (!stmt)
        return -1;
    sqlite3_bind_text(stmt, 1, state->creation, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)state->epoch);
    sqlite3_bind_text(stmt, 3, state->writer, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, state_sum(state));
    return sqlite_file_done(file, stmt, sqlite3_step(stmt), err);
}
