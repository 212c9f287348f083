/* What the files of the SQLite back end share: databases, cached statements, transactions and errors.
 *
 *     <state_directory>/triggerflow.db               workspaces(name, creation, file), users(name, digest)
 *     <state_directory>/workspaces/<ws>.<hex>.db     one workspace: a table a set, meta, events, event_ids
 *
 * Directories have the mode 0700, files 0600. All are in WAL mode with synchronous=FULL: a transaction is one
 * sync, and durable when it has committed (https://www.sqlite.org/wal.html).
 *
 * A workspace exists when it has a row in triggerflow.db; the row names its file. No file name is ever used
 * again: a process that still has the file of a removed workspace open, and tidies up behind itself when it
 * closes it, can hurt no namesake. Crash between any two lines:
 *   create: writes the file whole, in one transaction, and then the row, under the write lock of
 *     triggerflow.db. Before the row there is a file that nobody knows: the next create or remove of that
 *     name deletes it, under the same lock.
 *   remove: deletes the row, then empties the file's `meta` (the tombstone: commits and appends of a worker
 *     that has the file open are fenced from then on), then deletes the file. After the row the workspace is
 *     gone; what is left over goes with the next create or remove of that name.
 *
 * A connection keeps up to OPEN_MAX workspace files open, the least recently used is closed. Every call looks
 * at `meta` first: a file that has become a tombstone is dropped and looked up anew. After an error that may
 * be the file's or the disk's the database is closed, so that the next call begins afresh. Thread: one at a
 * time for each struct sqlite_storage. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/storage/sqlite.h"

struct error;

#define SQLITE_OPEN_MAX 64            /* workspace files open at a time in one connection */
#define SQLITE_BUSY_NS 10000000000ull /* how long a call waits for other writers */
#define SQLITE_PATH_BYTES 4400
#define SQLITE_FILE_BYTES (STORAGE_NAME_MAX + 32)

enum sqlite_verb { VERB_LOAD, VERB_GET, VERB_PUT, VERB_PUT_NEW, VERB_DELETE, N_VERBS };
enum sqlite_sql {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_META,
    SQL_META_PUT,
    SQL_META_CLEAR,
    SQL_LOG_LAST,
    SQL_LOG_PUT,
    SQL_LOG_IDS_PUT,
    SQL_LOG_FORGET,
    SQL_LOG_CONSUME,
    SQL_LOG_READ,
    SQL_LOG_IDS,
    N_SQL
};

/* An open database and its statements, prepared when first used. */
struct sqlite_db {
    sqlite3 *handle; /* NULL: not open */
    char path[SQLITE_PATH_BYTES];
    sqlite3_stmt *sql[N_SQL];
    sqlite3_stmt *field[STORAGE_SETS][N_VERBS];
    char workspace[STORAGE_NAME_MAX + 1];
    uint64_t used; /* when it was used last, by the storage's count of calls */
};

struct sqlite_storage {
    struct storage head;
    char *directory;
    struct sqlite_db main;
    struct sqlite_db *open[SQLITE_OPEN_MAX];
    size_t n_open;
    uint64_t calls;
    uint64_t waiting_since_ns; /* in the busy handler */
    uint64_t beat_ns;
};

/* ---- sqlite.c ---- */

/* err from the last failure of the database; closes it unless the fault is the caller's. Returns -1. */
int sqlite_fail(struct sqlite_storage *s, struct sqlite_db *db, const char *what, struct error *err);

/* Opens the list of workspaces and users. */
int sqlite_main(struct sqlite_storage *s, struct error *err);
/* Its file, without the folder: 0, or STORAGE_ABSENT. */
int sqlite_find(struct sqlite_storage *s, const char *workspace, char ret_file[SQLITE_FILE_BYTES],
                struct error *err);
/* The workspace's database: 0, or STORAGE_ABSENT. ret_creation: at least 64 bytes; or NULL. */
int sqlite_workspace(struct sqlite_storage *s, const char *workspace, struct sqlite_db **ret_db,
                     char *ret_creation, struct error *err);
/* Opens or creates a workspace's file that is not in the cache. */
int sqlite_open_file(struct sqlite_storage *s, struct sqlite_db *db, const char *path, bool create,
                     struct error *err);
void sqlite_db_close(struct sqlite_db *db);
/* Forgets the workspace's open file, if there is one. */
void sqlite_forget(struct sqlite_storage *s, const char *workspace);

/* A cached statement, reset; NULL with err. */
sqlite3_stmt *sqlite_statement(struct sqlite_storage *s, struct sqlite_db *db, enum sqlite_sql sql,
                               struct error *err);
sqlite3_stmt *sqlite_field(struct sqlite_storage *s, struct sqlite_db *db, enum storage_set set,
                           enum sqlite_verb verb, struct error *err);
/* Runs a statement without rows (a row is ignored), and resets it. */
int sqlite_run(struct sqlite_storage *s, struct sqlite_db *db, sqlite3_stmt *statement, struct error *err);
int sqlite_do(struct sqlite_storage *s, struct sqlite_db *db, enum sqlite_sql sql, struct error *err);
void sqlite_rollback(struct sqlite_storage *s, struct sqlite_db *db);

void sqlite_bind_bytes(sqlite3_stmt *statement, int index, const void *bytes, size_t len);

/* One field: 0 with its text (valid until the next call on this statement), or STORAGE_ABSENT. */
int sqlite_get_field(struct sqlite_storage *s, struct sqlite_db *db, enum storage_set set, const char *key,
                     size_t key_len, const char **ret_value, size_t *ret_len, struct error *err);
/* One operation within a transaction: 0, STORAGE_EXISTS or STORAGE_ABSENT. */
int sqlite_apply(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_op *op,
                 struct error *err);

/* The value of meta's row "creation": 0, or STORAGE_ABSENT (a tombstone). */
int sqlite_creation(struct sqlite_storage *s, struct sqlite_db *db, char ret_creation[64], struct error *err);
int sqlite_name_check(const char *workspace, struct error *err);

/* ---- the calls of the vtable ---- */

int sqlite_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                         struct storage_claim *ret_claim, struct error *err);
int sqlite_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err);
int sqlite_storage_log_append(struct storage *storage, const char *workspace, const char *writer,
                              const struct storage_log_group *group, uint64_t forget_ids, struct error *err);
int sqlite_storage_log_read(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                            storage_log_field field, void *data, struct error *err);
int sqlite_storage_log_ids(struct storage *storage, const char *workspace, storage_log_field field,
                           void *data, struct error *err);
int sqlite_storage_create(struct storage *storage, const char *workspace, const char *creation,
                          const struct storage_op *ops, size_t n_ops, struct error *err);
int sqlite_storage_remove(struct storage *storage, const char *workspace, struct error *err);
int sqlite_storage_edit(struct storage *storage, const char *workspace, const struct storage_op *ops,
                        size_t n_ops, int *ret_results, struct error *err);
int sqlite_storage_workspaces(struct storage *storage, storage_field field, void *data, struct error *err);
int sqlite_storage_workspace_exists(struct storage *storage, const char *workspace, struct error *err);
int sqlite_storage_users(struct storage *storage, storage_field field, void *data, struct error *err);
int sqlite_storage_user_put(struct storage *storage, const char *user, const char *digest, struct error *err);
