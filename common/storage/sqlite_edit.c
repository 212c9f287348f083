/* What the trigger API changes in SQLite: workspaces, their fields, users. See sqlite_internal.h. Thread: one
 * at a time. */
#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/storage/sqlite_internal.h"

#define SUFFIX_LEN 20 /* ".<16 hex digits>.db" */

/* A statement of the list of workspaces and users, with its parameters as text. */
static int main_run(struct sqlite_storage *s, const char *sql, const char *const *texts, int n,
                    int *ret_changes, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(s->main.handle, sql, -1, &statement, NULL);
    for (int i = 0; i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_text(statement, i + 1, texts[i], -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return sqlite_fail(s, &s->main, "write", err);
    *ret_changes = sqlite3_changes(s->main.handle);
    return 0;
}

static int main_scan(struct sqlite_storage *s, const char *sql, storage_field field, void *data,
                     struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int result = 0;
    if (sqlite_main(s, err) < 0)
        return -1;
    int rc = sqlite3_prepare_v2(s->main.handle, sql, -1, &statement, NULL);
    while (rc == SQLITE_OK && result >= 0 && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        const char *key = (const char *)sqlite3_column_text(statement, 0);
        const char *value = (const char *)sqlite3_column_text(statement, 1);
        result = field(data, key ? key : "", (size_t)sqlite3_column_bytes(statement, 0), value ? value : "",
                       (size_t)sqlite3_column_bytes(statement, 1));
        rc = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    if (result < 0)
        return result;
    return rc == SQLITE_DONE ? 0 : sqlite_fail(s, &s->main, "read", err);
}

int sqlite_storage_workspaces(struct storage *storage, storage_field field, void *data, struct error *err)
{
    return main_scan((struct sqlite_storage *)storage, "SELECT name, creation FROM workspaces ORDER BY name",
                     field, data, err);
}

int sqlite_storage_workspace_exists(struct storage *storage, const char *workspace, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    char file[SQLITE_FILE_BYTES];
    if (sqlite_name_check(workspace, err) < 0)
        return -1;
    return sqlite_find(s, workspace, file, err);
}

/* ---- files ---- */

/* Whether the name is that of a file of this workspace: <workspace>.<16 hex digits>.db. */
static bool left_over(const char *name, const char *workspace)
{
    size_t len = strlen(workspace);
    return strncmp(name, workspace, len) == 0 && strlen(name + len) == SUFFIX_LEN && name[len] == '.' &&
           strspn(name + len + 1, "0123456789abcdef") == 16 && strcmp(name + len + 17, ".db") == 0;
}

/* Makes a tombstone of a file, for whoever has it open, and deletes it. It need not be whole. */
static void bury(struct sqlite_storage *s, const char *file)
{
    static const char *const tails[] = {"", "-wal", "-shm"};
    char path[SQLITE_PATH_BYTES];
    char name[SQLITE_PATH_BYTES + 8];
    struct sqlite_db db = {.handle = NULL};
    snprintf(path, sizeof path, "%s/workspaces/%.250s", s->directory, file);
    if (sqlite_open_file(s, &db, path, false, NULL) == 0)
        (void)sqlite3_exec(db.handle, "DELETE FROM meta", NULL, NULL, NULL);
    sqlite_db_close(&db);
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        snprintf(name, sizeof name, "%s%s", path, tails[i]);
        unlink(name);
    }
}

/* Deletes files that a crash has left behind. Under the write lock of the list, and without a row. */
static void clear_left_overs(struct sqlite_storage *s, const char *workspace)
{
    char path[SQLITE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/workspaces", s->directory);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) /* NOLINT(concurrency-mt-unsafe): a stream of our own */
        if (left_over(entry->d_name, workspace))
            bury(s, entry->d_name);
    if (dir)
        closedir(dir);
}

/* ---- create ---- */

static int write_schema(struct sqlite_storage *s, struct sqlite_db *db, struct error *err)
{
    BUFFER_AUTO sql = BUFFER_INIT;
    for (int set = 0; set < STORAGE_SETS; set++)
        buffer_printf(&sql, "CREATE TABLE %s(key BLOB NOT NULL UNIQUE, value BLOB NOT NULL);",
                      storage_set_name((enum storage_set)set));
    buffer_printf(&sql,
                  "CREATE TABLE meta(key TEXT NOT NULL UNIQUE, value TEXT NOT NULL);"
                  "CREATE TABLE events(number INTEGER PRIMARY KEY, events BLOB NOT NULL);"
                  "CREATE TABLE event_ids(number INTEGER PRIMARY KEY, writer TEXT NOT NULL, ids BLOB NOT "
                  "NULL);"
                  "PRAGMA user_version=%d;",
                  STORAGE_FORMAT);
    if (sql.failed)
        return error_set(err, ERROR_MEMORY, "%.150s: out of memory", db->path);
    if (sqlite3_exec(db->handle, buffer_text(&sql), NULL, NULL, NULL))
        return sqlite_fail(s, db, "create", err);
    return 0;
}

static int write_workspace(struct sqlite_storage *s, struct sqlite_db *db, const char *creation,
                           const struct storage_op *ops, size_t n_ops, struct error *err)
{
    if (sqlite_do(s, db, SQL_BEGIN, err) < 0 || write_schema(s, db, err) < 0)
        return -1;
    sqlite3_stmt *meta = sqlite_statement(s, db, SQL_META_PUT, err);
    if (!meta)
        return -1;
    sqlite3_bind_text(meta, 1, creation, -1, SQLITE_STATIC);
    if (sqlite_run(s, db, meta, err) < 0)
        return -1;
    for (size_t i = 0; i < n_ops; i++)
        if (sqlite_apply(s, db, &ops[i], err) < 0)
            return -1;
    return sqlite_do(s, db, SQL_COMMIT, err);
}

/* Within a transaction of the list. */
static int create_within(struct sqlite_storage *s, const char *workspace, const char *creation,
                         const struct storage_op *ops, size_t n_ops, struct error *err)
{
    char file[SQLITE_FILE_BYTES];
    char path[SQLITE_PATH_BYTES];
    uint64_t random;
    int changes;
    struct sqlite_db db = {.handle = NULL};
    int rc = sqlite_find(s, workspace, file, err);
    if (rc != STORAGE_ABSENT)
        return rc == 0 ? STORAGE_EXISTS : rc;
    clear_left_overs(s, workspace);
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return error_set(err, ERROR_SYSTEM, "getrandom failed");
    snprintf(file, sizeof file, "%s.%016llx.db", workspace, (unsigned long long)random);
    snprintf(path, sizeof path, "%s/workspaces/%s", s->directory, file);
    rc = sqlite_open_file(s, &db, path, true, err);
    if (rc == 0)
        rc = write_workspace(s, &db, creation, ops, n_ops, err);
    sqlite_rollback(s, &db);
    sqlite_db_close(&db);
    if (rc == 0)
        rc = main_run(s, "INSERT INTO workspaces(name, creation, file) VALUES (?1, ?2, ?3)",
                      (const char *[]){workspace, creation, file}, 3, &changes, err);
    if (rc == 0)
        rc = sqlite_do(s, &s->main, SQL_COMMIT, err);
    if (rc < 0)
        bury(s, file);
    return rc;
}

int sqlite_storage_create(struct storage *storage, const char *workspace, const char *creation,
                          const struct storage_op *ops, size_t n_ops, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    if (sqlite_name_check(workspace, err) < 0 || sqlite_main(s, err) < 0 ||
        sqlite_do(s, &s->main, SQL_BEGIN, err) < 0)
        return -1;
    int rc = create_within(s, workspace, creation, ops, n_ops, err);
    sqlite_rollback(s, &s->main); /* unless it has committed */
    return rc;
}

/* ---- remove ---- */

int sqlite_storage_remove(struct storage *storage, const char *workspace, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    char file[SQLITE_FILE_BYTES];
    int changes;
    if (sqlite_name_check(workspace, err) < 0 || sqlite_main(s, err) < 0 ||
        sqlite_do(s, &s->main, SQL_BEGIN, err) < 0)
        return -1;
    int rc = sqlite_find(s, workspace, file, err);
    if (rc == 0)
        rc = main_run(s, "DELETE FROM workspaces WHERE name = ?1", &workspace, 1, &changes, err);
    if (rc == 0)
        rc = sqlite_do(s, &s->main, SQL_COMMIT, err);
    if (rc == 0) {
        sqlite_forget(s, workspace);
        bury(s, file);
    }
    sqlite_rollback(s, &s->main);
    return rc;
}

/* ---- edit ---- */

int sqlite_storage_edit(struct storage *storage, const char *workspace, const struct storage_op *ops,
                        size_t n_ops, int *ret_results, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    char creation[64];
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc != 0 || n_ops == 0)
        return rc;
    if (sqlite_do(s, db, SQL_BEGIN, err) < 0)
        return -1;
    rc = sqlite_creation(s, db, creation, err);
    for (size_t i = 0; i < n_ops && rc == 0; i++) {
        assert(ops[i].set != STORAGE_CHECKPOINT && ops[i].set != STORAGE_OUTBOX &&
               ops[i].set != STORAGE_INTERNAL);
        ret_results[i] = sqlite_apply(s, db, &ops[i], err);
        rc = ret_results[i] < 0 ? -1 : 0;
    }
    if (rc == 0)
        rc = sqlite_do(s, db, SQL_COMMIT, err);
    sqlite_rollback(s, db);
    return rc;
}

/* ---- users ---- */

int sqlite_storage_users(struct storage *storage, storage_field field, void *data, struct error *err)
{
    return main_scan((struct sqlite_storage *)storage, "SELECT name, digest FROM users ORDER BY name", field,
                     data, err);
}

int sqlite_storage_user_put(struct storage *storage, const char *user, const char *digest, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    const char *texts[] = {user, digest};
    int changes;
    if (sqlite_main(s, err) < 0)
        return -1;
    const char *sql = digest ? "INSERT INTO users(name, digest) VALUES (?1, ?2) "
                               "ON CONFLICT(name) DO UPDATE SET digest = excluded.digest"
                             : "DELETE FROM users WHERE name = ?1";
    if (main_run(s, sql, texts, digest ? 2 : 1, &changes, err) < 0)
        return -1;
    return digest || changes ? 0 : STORAGE_ABSENT;
}
