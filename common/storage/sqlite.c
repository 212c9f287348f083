/* See sqlite_internal.h. */
#include "common/storage/sqlite_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"

#define WAL_PAGES 4000 /* at which the WAL is written back: about 16 MiB */
#define WAL_KEPT_BYTES 16777216

static const char *const sql_texts[N_SQL] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_META] = "SELECT value FROM meta WHERE key = 'creation'",
    [SQL_META_PUT] = "INSERT INTO meta(key, value) VALUES ('creation', ?1)",
    [SQL_META_CLEAR] = "DELETE FROM meta",
    [SQL_LOG_LAST] = "SELECT number, writer FROM event_ids ORDER BY number DESC LIMIT 1",
    [SQL_LOG_PUT] = "INSERT INTO events(number, events) VALUES (?1, ?2)",
    [SQL_LOG_IDS_PUT] = "INSERT INTO event_ids(number, writer, ids) VALUES (?1, ?2, ?3)",
    [SQL_LOG_FORGET] = "DELETE FROM event_ids WHERE number < ?1",
    [SQL_LOG_CONSUME] = "DELETE FROM events WHERE number <= ?1",
    [SQL_LOG_READ] = "SELECT number, events FROM events WHERE number > ?1 ORDER BY number",
    [SQL_LOG_IDS] = "SELECT number, ids FROM event_ids ORDER BY number",
};

/* What stands before and behind the name of the set's table. */
static const struct {
    const char *before;
    const char *behind;
} verb_texts[N_VERBS] = {
    [VERB_LOAD] = {"SELECT key, value FROM ", ""},
    [VERB_GET] = {"SELECT value FROM ", " WHERE key = ?1"},
    [VERB_PUT] = {"INSERT INTO ", "(key, value) VALUES (?1, ?2) "
                                  "ON CONFLICT(key) DO UPDATE SET value = excluded.value"},
    [VERB_PUT_NEW] = {"INSERT OR IGNORE INTO ", "(key, value) VALUES (?1, ?2)"},
    [VERB_DELETE] = {"DELETE FROM ", " WHERE key = ?1"},
};

/* ---- errors ---- */

static enum error_code code_of(int rc, int system_errno)
{
    bool full = system_errno == ENOSPC || system_errno == EDQUOT || system_errno == EROFS;
    switch (rc & 0xff) {
    case SQLITE_FULL:
    case SQLITE_READONLY:
        return ERROR_NO_SPACE;
    case SQLITE_NOMEM:
        return ERROR_MEMORY;
    case SQLITE_TOOBIG:
        return ERROR_LIMIT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_AUTH:
    case SQLITE_PERM:
        return ERROR_REFUSED;
    case SQLITE_CANTOPEN:
        return full ? ERROR_NO_SPACE : system_errno == EACCES ? ERROR_REFUSED : ERROR_UNAVAILABLE;
    case SQLITE_IOERR:
        return full ? ERROR_NO_SPACE : ERROR_UNAVAILABLE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return ERROR_UNAVAILABLE;
    default:
        return ERROR_SYSTEM;
    }
}

int sqlite_fail(struct sqlite_storage *s, struct sqlite_db *db, const char *what, struct error *err)
{
    int rc = db->handle ? sqlite3_extended_errcode(db->handle) : SQLITE_NOMEM;
    int system_errno = db->handle ? sqlite3_system_errno(db->handle) : 0;
    int primary = rc & 0xff;
    const char *text = db->handle ? sqlite3_errmsg(db->handle) : "out of memory";
    bool damaged = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB;
    error_set(err, code_of(rc, system_errno), "%.120s: %s: %.60s%s%.40s%s", db->path, what, text,
              primary == SQLITE_IOERR && system_errno ? ": " : "",
              primary == SQLITE_IOERR && system_errno ? strerror(system_errno) : "",
              damaged ? " (the file is damaged: restore it from a backup)" : "");
    if (db->handle && !sqlite3_get_autocommit(db->handle))
        sqlite_rollback(s, db);
    if (primary != SQLITE_BUSY && primary != SQLITE_TOOBIG && primary != SQLITE_CONSTRAINT)
        sqlite_db_close(db); /* the next call begins afresh */
    return -1;
}

/* SQLite asks whether to wait once more for another writer. */
static int on_busy(void *data, int count)
{
    struct sqlite_storage *s = data;
    uint64_t now = clock_now_ns();
    if (count == 0)
        s->waiting_since_ns = s->beat_ns = now;
    if (now - s->waiting_since_ns >= SQLITE_BUSY_NS)
        return 0;
    if (s->head.heartbeat && now - s->beat_ns >= CLOCK_S) {
        s->head.heartbeat(s->head.heartbeat_data);
        s->beat_ns = now;
    }
    long us = count < 20 ? 50 : count < 40 ? 500 : 5000;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
    return 1;
}

/* ---- statements ---- */

sqlite3_stmt *sqlite_statement(struct sqlite_storage *s, struct sqlite_db *db, enum sqlite_sql sql,
                               struct error *err)
{
    if (!db->sql[sql] &&
        sqlite3_prepare_v3(db->handle, sql_texts[sql], -1, SQLITE_PREPARE_PERSISTENT, &db->sql[sql], NULL)) {
        sqlite_fail(s, db, "prepare", err);
        return NULL;
    }
    sqlite3_reset(db->sql[sql]);
    return db->sql[sql];
}

sqlite3_stmt *sqlite_field(struct sqlite_storage *s, struct sqlite_db *db, enum storage_set set,
                           enum sqlite_verb verb, struct error *err)
{
    char text[160];
    sqlite3_stmt **slot = &db->field[set][verb];
    if (!*slot) {
        snprintf(text, sizeof text, "%s%s%s", verb_texts[verb].before, storage_set_name(set),
                 verb_texts[verb].behind);
        if (sqlite3_prepare_v3(db->handle, text, -1, SQLITE_PREPARE_PERSISTENT, slot, NULL)) {
            sqlite_fail(s, db, "prepare", err);
            return NULL;
        }
    }
    sqlite3_reset(*slot);
    return *slot;
}

int sqlite_run(struct sqlite_storage *s, struct sqlite_db *db, sqlite3_stmt *statement, struct error *err)
{
    int rc = sqlite3_step(statement);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) {
        const char *sql = sqlite3_sql(statement);
        char verb[24];
        snprintf(verb, sizeof verb, "%.*s", (int)strcspn(sql, " "), sql);
        return sqlite_fail(s, db, verb, err);
    }
    sqlite3_reset(statement);
    return 0;
}

int sqlite_do(struct sqlite_storage *s, struct sqlite_db *db, enum sqlite_sql sql, struct error *err)
{
    sqlite3_stmt *statement = sqlite_statement(s, db, sql, err);
    return statement ? sqlite_run(s, db, statement, err) : -1;
}

void sqlite_rollback(struct sqlite_storage *s, struct sqlite_db *db)
{
    (void)s;
    if (db->handle && !sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

void sqlite_bind_bytes(sqlite3_stmt *statement, int index, const void *bytes, size_t len)
{
    /* A NULL pointer would bind SQL's NULL. Static: bound bytes outlive the step, and are bound anew each
     * time. */
    sqlite3_bind_blob64(statement, index, bytes ? bytes : "", len, SQLITE_STATIC);
}

/* ---- files ---- */

void sqlite_db_close(struct sqlite_db *db)
{
    for (size_t i = 0; i < N_SQL; i++)
        sqlite3_finalize(db->sql[i]);
    for (size_t i = 0; i < STORAGE_SETS; i++)
        for (size_t j = 0; j < N_VERBS; j++)
            sqlite3_finalize(db->field[i][j]);
    memset(db->sql, 0, sizeof db->sql);
    memset(db->field, 0, sizeof db->field);
    sqlite3_close(db->handle);
    db->handle = NULL;
}

/* Creates an empty file of mode 0600 unless it is there. By a link, since a descriptor of a database must not
 * be closed while a connection of this process has it open: that would drop its locks. */
static int make_file(const char *path, struct error *err)
{
    char temporary[SQLITE_PATH_BYTES + 16];
    if (access(path, F_OK) == 0)
        return 0;
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        bool full = errno == ENOSPC || errno == EROFS || errno == EDQUOT;
        error_set_errno(err, errno, "%.150s", path);
        if (full && err)
            err->code = ERROR_NO_SPACE;
        return -1;
    }
    close(fd);
    int rc = link(temporary, path) < 0 && errno != EEXIST ? error_set_errno(err, errno, "%.150s", path) : 0;
    unlink(temporary);
    return rc;
}

int sqlite_open_file(struct sqlite_storage *s, struct sqlite_db *db, const char *path, bool create,
                     struct error *err)
{
    static const char pragmas[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA "
                                  "temp_store=MEMORY; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF;";
    char limits[128];
    snprintf(db->path, sizeof db->path, "%s", path);
    if (create && make_file(path, err) < 0)
        return -1;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOFOLLOW;
    if (sqlite3_open_v2(path, &db->handle, flags, NULL))
        return sqlite_fail(s, db, "open", err);
    sqlite3_busy_handler(db->handle, on_busy, s);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    snprintf(limits, sizeof limits, "PRAGMA wal_autocheckpoint=%d; PRAGMA journal_size_limit=%d;", WAL_PAGES,
             WAL_KEPT_BYTES);
    if (sqlite3_exec(db->handle, pragmas, NULL, NULL, NULL) ||
        sqlite3_exec(db->handle, limits, NULL, NULL, NULL))
        return sqlite_fail(s, db, "open", err);
    return 0;
}

static int make_directory(const char *path, struct error *err)
{
    struct stat stat;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        int e = errno;
        error_set_errno(err, e, "state directory %.150s", path);
        if (err && (e == ENOSPC || e == EROFS || e == EDQUOT))
            err->code = ERROR_NO_SPACE;
        return -1;
    }
    if (lstat(path, &stat) < 0)
        return error_set_errno(err, errno, "state directory %.150s", path);
    if (!S_ISDIR(stat.st_mode) && lstat(path, &stat) == 0 && !S_ISLNK(stat.st_mode))
        return error_set(err, ERROR_REFUSED, "state directory %.150s: it is not a directory", path);
    if (S_ISDIR(stat.st_mode) && (stat.st_mode & (S_IWGRP | S_IWOTH)))
        return error_set(err, ERROR_REFUSED,
                         "state directory %.150s: others may write to it (mode %o): chmod go-w it", path,
                         (unsigned)stat.st_mode & 07777u);
    return 0;
}

/* The directories above the state directory. */
static int make_parents(const char *path, struct error *err)
{
    char part[SQLITE_PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0700) < 0 && errno != EEXIST && access(part, F_OK) < 0)
            return error_set_errno(err, errno, "state directory %.150s", part);
        *slash = '/';
    }
    return 0;
}

static int user_version(struct sqlite_storage *s, struct sqlite_db *db, int *ret_version, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db->handle, "PRAGMA user_version", -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *ret_version = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? 0 : sqlite_fail(s, db, "read", err);
}

static int check_format(struct sqlite_storage *s, struct sqlite_db *db, int *ret_version, struct error *err)
{
    if (user_version(s, db, ret_version, err) < 0)
        return -1;
    if (*ret_version <= STORAGE_FORMAT)
        return 0;
    error_set(err, ERROR_REFUSED, "%.150s: its format is %d, newer than %d: run the newer version", db->path,
              *ret_version, STORAGE_FORMAT);
    sqlite_db_close(db);
    return -1;
}

int sqlite_main(struct sqlite_storage *s, struct error *err)
{
    static const char schema[] =
        "BEGIN IMMEDIATE;"
        "CREATE TABLE IF NOT EXISTS workspaces(name TEXT NOT NULL UNIQUE, creation TEXT NOT NULL, file TEXT "
        "NOT NULL);"
        "CREATE TABLE IF NOT EXISTS users(name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL);"
        "PRAGMA user_version=1; COMMIT;";
    char path[SQLITE_PATH_BYTES];
    int version = 0;
    if (s->main.handle)
        return 0;
    snprintf(path, sizeof path, "%s/workspaces", s->directory);
    if (make_parents(s->directory, err) < 0 || make_directory(s->directory, err) < 0 ||
        make_directory(path, err) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/triggerflow.db", s->directory);
    if (sqlite_open_file(s, &s->main, path, true, err) < 0 || check_format(s, &s->main, &version, err) < 0)
        return -1;
    if (version == 0 && sqlite3_exec(s->main.handle, schema, NULL, NULL, NULL))
        return sqlite_fail(s, &s->main, "create", err);
    return 0;
}

/* ---- workspaces ---- */

int sqlite_name_check(const char *workspace, struct error *err)
{
    if (storage_name_valid(workspace))
        return 0;
    return error_set(err, ERROR_INVALID, "workspace name '%.60s' is not valid", workspace);
}

int sqlite_creation(struct sqlite_storage *s, struct sqlite_db *db, char ret_creation[64], struct error *err)
{
    sqlite3_stmt *statement = sqlite_statement(s, db, SQL_META, err);
    int rc = statement ? sqlite3_step(statement) : SQLITE_ERROR;
    if (!statement)
        return -1;
    if (rc == SQLITE_ROW)
        snprintf(ret_creation, 64, "%s", (const char *)sqlite3_column_text(statement, 0));
    else if (rc != SQLITE_DONE)
        return sqlite_fail(s, db, "read", err);
    sqlite3_reset(statement);
    return rc == SQLITE_ROW ? 0 : STORAGE_ABSENT;
}

static void drop(struct sqlite_storage *s, size_t i)
{
    sqlite_db_close(s->open[i]);
    free(s->open[i]);
    s->open[i] = s->open[--s->n_open];
}

void sqlite_forget(struct sqlite_storage *s, const char *workspace)
{
    for (size_t i = 0; i < s->n_open; i++)
        if (strcmp(s->open[i]->workspace, workspace) == 0) {
            drop(s, i);
            return;
        }
}

/* Room for one more: the least recently used is closed. */
static struct sqlite_db *slot_new(struct sqlite_storage *s, const char *workspace)
{
    size_t oldest = 0;
    for (size_t i = 1; i < s->n_open; i++)
        if (s->open[i]->used < s->open[oldest]->used)
            oldest = i;
    if (s->n_open == SQLITE_OPEN_MAX)
        drop(s, oldest);
    struct sqlite_db *db = calloc(1, sizeof *db);
    if (db) {
        snprintf(db->workspace, sizeof db->workspace, "%s", workspace);
        s->open[s->n_open++] = db;
    }
    return db;
}

int sqlite_find(struct sqlite_storage *s, const char *workspace, char ret_file[SQLITE_FILE_BYTES],
                struct error *err)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite_main(s, err) < 0)
        return -1;
    int rc = sqlite3_prepare_v2(s->main.handle, "SELECT file FROM workspaces WHERE name = ?1", -1, &statement,
                                NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_bind_text(statement, 1, workspace, -1, SQLITE_STATIC)) == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        snprintf(ret_file, SQLITE_FILE_BYTES, "%s", (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return sqlite_fail(s, &s->main, "read", err);
    return rc == SQLITE_ROW ? 0 : STORAGE_ABSENT;
}

static int open_workspace(struct sqlite_storage *s, const char *workspace, struct sqlite_db **ret_db,
                          struct error *err)
{
    char file[SQLITE_FILE_BYTES];
    char path[SQLITE_PATH_BYTES];
    int version = 0;
    int rc = sqlite_find(s, workspace, file, err);
    if (rc != 0)
        return rc;
    snprintf(path, sizeof path, "%s/workspaces/%s", s->directory, file);
    struct sqlite_db *db = slot_new(s, workspace);
    if (!db)
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", workspace);
    if (sqlite_open_file(s, db, path, false, err) < 0 || check_format(s, db, &version, err) < 0) {
        sqlite_forget(s, workspace);
        return -1;
    }
    *ret_db = db;
    return 0;
}

int sqlite_workspace(struct sqlite_storage *s, const char *workspace, struct sqlite_db **ret_db,
                     char *ret_creation, struct error *err)
{
    char creation[64];
    if (sqlite_name_check(workspace, err) < 0)
        return -1;
    s->calls++;
    for (int tries = 0; tries < 2; tries++) {
        struct sqlite_db *db = NULL;
        for (size_t i = 0; i < s->n_open && !db; i++)
            if (strcmp(s->open[i]->workspace, workspace) == 0)
                db = s->open[i];
        if (db && !db->handle) { /* closed by an error */
            sqlite_forget(s, workspace);
            db = NULL;
        }
        int rc = db ? 0 : open_workspace(s, workspace, &db, err);
        if (rc == 0)
            rc = sqlite_creation(s, db, creation, err);
        if (rc == 0) {
            db->used = s->calls;
            *ret_db = db;
            if (ret_creation)
                memcpy(ret_creation, creation, sizeof creation);
            return 0;
        }
        sqlite_forget(s, workspace);
        if (rc < 0)
            return rc;
    }
    return STORAGE_ABSENT;
}

/* ---- fields ---- */

int sqlite_get_field(struct sqlite_storage *s, struct sqlite_db *db, enum storage_set set, const char *key,
                     size_t key_len, const char **ret_value, size_t *ret_len, struct error *err)
{
    sqlite3_stmt *statement = sqlite_field(s, db, set, VERB_GET, err);
    if (!statement)
        return -1;
    sqlite_bind_bytes(statement, 1, key, key_len);
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_DONE) {
        sqlite3_reset(statement);
        return STORAGE_ABSENT;
    }
    if (rc != SQLITE_ROW)
        return sqlite_fail(s, db, "read", err);
    const char *value = sqlite3_column_blob(statement, 0);
    *ret_value = value ? value : "";
    *ret_len = (size_t)sqlite3_column_bytes(statement, 0);
    return 0;
}

static int load(struct storage *storage, const char *workspace, enum storage_set set, storage_field field,
                void *data, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc != 0)
        return rc < 0 ? rc : 0; /* nothing is stored */
    sqlite3_stmt *statement = sqlite_field(s, db, set, VERB_LOAD, err);
    if (!statement)
        return -1;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
        const char *key = sqlite3_column_blob(statement, 0);
        const char *value = sqlite3_column_blob(statement, 1);
        int result = field(data, key ? key : "", (size_t)sqlite3_column_bytes(statement, 0),
                           value ? value : "", (size_t)sqlite3_column_bytes(statement, 1));
        if (result < 0) {
            sqlite3_reset(statement);
            return result;
        }
    }
    if (rc != SQLITE_DONE)
        return sqlite_fail(s, db, "read", err);
    sqlite3_reset(statement);
    return 0;
}

static int get(struct storage *storage, const char *workspace, enum storage_set set, const char *const *keys,
               size_t n_keys, storage_field field, void *data, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    for (size_t i = 0; i < n_keys; i++) {
        const char *value;
        size_t len;
        rc = sqlite_get_field(s, db, set, keys[i], strlen(keys[i]), &value, &len, err);
        if (rc < 0)
            return rc;
        int result = rc == 0 ? field(data, keys[i], strlen(keys[i]), value, len) : 0;
        if (rc == 0)
            sqlite3_reset(db->field[set][VERB_GET]);
        if (result < 0)
            return result;
    }
    return 0;
}

/* Files tell of no changes: poll. */
static int watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err)
{
    (void)storage, (void)workspace, (void)ret_fd, (void)err;
    return STORAGE_ABSENT;
}

static int watch_read(struct storage *storage, struct error *err)
{
    (void)storage, (void)err;
    return STORAGE_ABSENT;
}

/* ---- open and close ---- */

static int open_storage(const struct config *config, const char *client_name, struct storage **ret_storage,
                        struct error *err)
{
    (void)client_name;
    if (strlen(config->state_directory) + SQLITE_FILE_BYTES + 32 > SQLITE_PATH_BYTES)
        return error_set(err, ERROR_INVALID, "state directory: its path is too long");
    struct sqlite_storage *s = calloc(1, sizeof *s);
    char *directory = strdup(config->state_directory);
    if (!s || !directory) {
        free(s);
        free(directory);
        return error_set(err, ERROR_MEMORY, "storage: out of memory");
    }
    s->head.type = &storage_sqlite;
    s->directory = directory;
    *ret_storage = &s->head;
    return 0;
}

static void close_storage(struct storage *storage)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    while (s->n_open > 0)
        drop(s, s->n_open - 1);
    sqlite_db_close(&s->main);
    free(s->directory);
    free(s);
}

const struct storage_type storage_sqlite = {
    .name = "sqlite",
    .open = open_storage,
    .close = close_storage,
    .workspaces = sqlite_storage_workspaces,
    .workspace_exists = sqlite_storage_workspace_exists,
    .claim = sqlite_storage_claim,
    .load = load,
    .get = get,
    .commit = sqlite_storage_commit,
    .watch = watch,
    .watch_read = watch_read,
    .log_append = sqlite_storage_log_append,
    .log_read = sqlite_storage_log_read,
    .log_ids = sqlite_storage_log_ids,
    .create = sqlite_storage_create,
    .remove = sqlite_storage_remove,
    .edit = sqlite_storage_edit,
    .users = sqlite_storage_users,
    .user_put = sqlite_storage_user_put,
};
