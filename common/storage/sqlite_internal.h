/* What the files of the SQLite back end share: the state directory (sqlite_directory.c), one open database
 * file (sqlite_file.c), and the open files of a handle (sqlite.c). Thread: one at a time for each struct
 * sqlite_storage. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/storage/sqlite.h"

#define SQLITE_APPLICATION_ID 0x54466c77 /* "TFlw" */
#define SQLITE_FILES_MAX 64              /* workspaces that a handle keeps open; three descriptors each */

/* Tables of fields: key, value, and the checksum of both. The sets come first, under their numbers. */
enum sqlite_table { SQLITE_WORKSPACES = STORAGE_SETS, SQLITE_USERS, SQLITE_TABLES };
enum sqlite_row { ROW_LOAD, ROW_GET, ROW_PUT, ROW_UPDATE, ROW_DELETE, SQLITE_ROWS };

/* The other statements. */
enum sqlite_statement {
    SQLITE_BEGIN,
    SQLITE_COMMIT,
    SQLITE_STATE_READ,
    SQLITE_STATE_WRITE,
    SQLITE_LOG_LAST,
    SQLITE_LOG_PUT,
    SQLITE_LOG_PUT_IDS,
    SQLITE_LOG_FORGET,
    SQLITE_LOG_CONSUME,
    SQLITE_LOG_READ,
    SQLITE_LOG_IDS,
    SQLITE_DATA_VERSION,
    SQLITE_STATEMENTS
};

/* An open database: the list of workspaces and users, or one workspace. */
struct sqlite_file {
    sqlite3 *db;
    char *path;
    char workspace[STORAGE_NAME_MAX + 1]; /* "": the list */
    char creation[64];                    /* the workspace's, as the list had it when this was opened */
    uint64_t serial;                      /* of the files that the handle has opened */
    uint64_t used;                        /* for the LRU order */
    bool stale;                           /* has failed in a way that only opening it anew may mend */
    sqlite3_stmt *rows[SQLITE_TABLES][SQLITE_ROWS]; /* prepared when first used */
    sqlite3_stmt *statements[SQLITE_STATEMENTS];
};

struct sqlite_storage {
    struct storage head;
    char *configured; /* the state directory as it is configured */
    char *directory;  /* absolute; NULL: not opened yet */
    int directory_fd; /* whose flock is the lock of the directory; -1 */
    int turns_fd;     /* whose bytes are the queues of the workspaces; -1 */
    struct sqlite_file *list;
    struct sqlite_file *files[SQLITE_FILES_MAX];
    size_t n_files;
    uint64_t opened;
    uint64_t uses;
    uint64_t wait_since_ns; /* for the lock of a file */
    uint64_t beat_ns;
    int watch_fd; /* a timer; -1 */
    int64_t watch_every_ns;
    char watched[STORAGE_NAME_MAX + 1];
    uint64_t watched_serial; /* a version means something within one connection only */
    int64_t watched_version;
};

/* The row of a workspace's table `state`. */
struct sqlite_state {
    int64_t format;
    char creation[64];
    uint64_t epoch;
    char writer[STORAGE_WRITER_MAX * 2]; /* "": nobody */
};

/* ---- sqlite.c ---- */

/* The list of workspaces and users. */
int sqlite_list(struct sqlite_storage *s, struct sqlite_file **ret_list, struct error *err);
/* The file of a workspace: 0; STORAGE_ABSENT: not stored; a name that none can have is ERROR_INVALID. Valid
 * until the next call of this kind. */
int sqlite_workspace(struct sqlite_storage *s, const char *workspace, struct sqlite_file **ret_file,
                     struct error *err);
/* The same, with the directory locked (SQLITE_SHARED), and the workspace still in the list. */
int sqlite_workspace_locked(struct sqlite_storage *s, const char *workspace, struct sqlite_file **ret_file,
                            struct error *err);
/* Closes the workspace's file if it is open. Requires: the directory's lock. */
void sqlite_forget(struct sqlite_storage *s, const char *workspace);
/* The creation value that the list has. 0, or STORAGE_ABSENT. */
int sqlite_listed(struct sqlite_storage *s, const char *workspace, char ret_creation[64], struct error *err);

/* ---- sqlite_directory.c ---- */

enum sqlite_lock { SQLITE_SHARED, SQLITE_EXCLUSIVE };

/* Makes the directories if they are absent, and looks whether they are safe. */
int sqlite_directory_open(struct sqlite_storage *s, struct error *err);
/* Locks the directory against those who make and remove files (shared) or against all who open one, too
 * (exclusive). Waits for a bounded time. Not recursive. */
int sqlite_directory_lock(struct sqlite_storage *s, enum sqlite_lock lock, struct error *err);
void sqlite_directory_unlock(struct sqlite_storage *s);
/* The path of a workspace's file, of the list with ""; NULL without memory. To be freed. */
char *sqlite_directory_path(const struct sqlite_storage *s, const char *workspace);
/* Removes a database and what belongs to it. Requires: the exclusive lock. */
int sqlite_directory_remove(const char *path, struct error *err);
/* Makes a database of this schema, which `fill` may add to (or NULL), where none is: all or nothing, and
 * durable. Requires: the exclusive lock. */
int sqlite_directory_build(struct sqlite_storage *s, const char *workspace,
                           int (*fill)(struct sqlite_storage *s, struct sqlite_file *file, void *data,
                                       struct error *err),
                           void *data, struct error *err);
/* The place before the write lock of a workspace, or of the list (""); held by one at a time, until the lock
 * is had. Waits for a bounded time. */
int sqlite_directory_queue(struct sqlite_storage *s, const char *workspace, struct error *err);
void sqlite_directory_unqueue(struct sqlite_storage *s, const char *workspace);
/* What a caller sees between two waits: false when it has waited for too long. */
bool sqlite_wait(struct sqlite_storage *s, unsigned attempt);

/* ---- sqlite_file.c ---- */

/* 0, STORAGE_ABSENT: there is no such file, or -1. Requires: the directory's lock, for opening and closing.
 */
int sqlite_file_open(struct sqlite_storage *s, const char *path, const char *workspace,
                     struct sqlite_file **ret_file, struct error *err);
void sqlite_file_close(struct sqlite_file *file); /* NULL is fine */
/* That it is ours, and of a format that this program knows. */
int sqlite_file_check(struct sqlite_file *file, struct error *err);
/* Whether its path names another file by now, or none, or it is to be opened anew. */
bool sqlite_file_outdated(struct sqlite_file *file);
/* Fills err with what the result code of a call on this file says. Returns -1. */
int sqlite_file_failed(struct sqlite_file *file, int rc, struct error *err);
int sqlite_file_damaged(const struct sqlite_file *file, struct error *err, const char *what);
/* Statements without parameters and rows. */
int sqlite_file_run(struct sqlite_file *file, const char *sql, struct error *err);

sqlite3_stmt *sqlite_file_statement(struct sqlite_file *file, enum sqlite_statement statement,
                                    struct error *err);
/* Ends the use of a statement; rc: what its last step said. 0 (for a row or the end), or -1. */
int sqlite_file_done(struct sqlite_file *file, sqlite3_stmt *stmt, int rc, struct error *err);

/* A transaction that may write. What fails in it is to be followed by sqlite_file_rollback. */
int sqlite_file_begin(struct sqlite_storage *s, struct sqlite_file *file, struct error *err);
int sqlite_file_commit(struct sqlite_file *file, struct error *err);
void sqlite_file_rollback(struct sqlite_file *file); /* fine without a transaction, too */

int sqlite_state_read(struct sqlite_file *file, struct sqlite_state *ret_state, struct error *err);
int sqlite_state_write(struct sqlite_file *file, const struct sqlite_state *state, struct error *err);
uint64_t sqlite_sum(const void *key, size_t key_len, const void *value, size_t value_len);

/* ---- sqlite_rows.c: fields of a table ---- */

int sqlite_rows_load(struct sqlite_file *file, int table, storage_field field, void *data, struct error *err);
/* 0, STORAGE_ABSENT, or what field returns. field may be NULL. */
int sqlite_rows_get(struct sqlite_file *file, int table, const char *key, size_t key_len, storage_field field,
                    void *data, struct error *err);
int sqlite_rows_put(struct sqlite_file *file, int table, const char *key, size_t key_len, const char *value,
                    size_t value_len, struct error *err);
/* 0, or STORAGE_ABSENT. */
int sqlite_rows_delete(struct sqlite_file *file, int table, const char *key, size_t key_len,
                       struct error *err);
/* One operation by itself: 0, STORAGE_EXISTS or STORAGE_ABSENT as storage_edit has them. */
int sqlite_rows_apply(struct sqlite_file *file, const struct storage_op *op, struct error *err);

/* ---- the calls ---- */

int sqlite_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                         struct storage_claim *ret_claim, struct error *err);
int sqlite_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err);
int sqlite_storage_watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err);
int sqlite_storage_watch_read(struct storage *storage, struct error *err);
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
