/* The event log in SQLite: `events` has a row a group, and `event_ids` one with the group's writer and its
 * events' ids, which outlives the events. They are in the workspace's file: so a checkpoint removes the
 * groups that it consumes in its own transaction, and an append, which is one transaction with one sync,
 * waits while a checkpoint writes. Thread: one at a time. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/sqlite_internal.h"

/* ---- appending ---- */

/* 0; 1: it is there already; or -1. */
static int look_at_last(struct sqlite_file *file, const char *writer, uint64_t number, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_LOG_LAST, err);
    if (!stmt)
        return -1;
    uint64_t last = 0;
    bool ours = false;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        const unsigned char *text = sqlite3_column_text(stmt, 1);
        last = (uint64_t)sqlite3_column_int64(stmt, 0);
        ours = text && strcmp((const char *)text, writer) == 0;
    }
    if (sqlite_file_done(file, stmt, rc, err) < 0)
        return -1;
    if (last == number && ours)
        return 1;
    if (number <= last)
        return error_set(err, ERROR_INVALID, "%s: group %" PRIu64 " comes after group %" PRIu64, file->path,
                         number, last);
    return 0;
}

static void bind_blob(sqlite3_stmt *stmt, int index, const void *bytes, size_t len)
{
    sqlite3_bind_blob64(stmt, index, bytes ? bytes : "", len, SQLITE_STATIC);
}

static int put_group(struct sqlite_file *file, const char *writer, const struct storage_log_group *group,
                     struct error *err)
{
    sqlite3_stmt *events = sqlite_file_statement(file, SQLITE_LOG_PUT, err);
    sqlite3_stmt *ids = sqlite_file_statement(file, SQLITE_LOG_PUT_IDS, err);
    if (!events || !ids)
        return -1;
    uint64_t number = group->number;
    sqlite3_bind_int64(events, 1, (sqlite3_int64)number);
    bind_blob(events, 2, group->events, group->events_len);
    sqlite3_bind_int64(events, 3,
                       (sqlite3_int64)sqlite_sum(&number, sizeof number, group->events, group->events_len));
    if (sqlite_file_done(file, events, sqlite3_step(events), err) < 0)
        return -1;
    sqlite3_bind_int64(ids, 1, (sqlite3_int64)number);
    sqlite3_bind_text(ids, 2, writer, -1, SQLITE_STATIC);
    bind_blob(ids, 3, group->ids, group->ids_len);
    sqlite3_bind_int64(ids, 4, (sqlite3_int64)sqlite_sum(&number, sizeof number, group->ids, group->ids_len));
    return sqlite_file_done(file, ids, sqlite3_step(ids), err);
}

static int forget(struct sqlite_file *file, uint64_t below, struct error *err)
{
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_LOG_FORGET, err);
    if (!stmt)
        return -1;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)below);
    return sqlite_file_done(file, stmt, sqlite3_step(stmt), err);
}

static int append(struct sqlite_file *file, const char *writer, const struct storage_log_group *group,
                  uint64_t forget_ids, struct error *err)
{
    struct sqlite_state state;
    if (sqlite_state_read(file, &state, err) < 0)
        return -1;
    if (strcmp(state.writer, writer) != 0) {
        error_set(err, ERROR_FENCED, "%s: workspace %s belongs to another writer, %s", file->path,
                  file->workspace, state.writer[0] ? state.writer : "nobody");
        return STORAGE_FENCED;
    }
    int rc = look_at_last(file, writer, group->number, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (put_group(file, writer, group, err) < 0)
        return -1;
    if (forget_ids && forget(file, forget_ids < group->number ? forget_ids : group->number, err) < 0)
        return -1;
    return sqlite_file_commit(file, err);
}

int sqlite_storage_log_append(struct storage *storage, const char *workspace, const char *writer,
                              const struct storage_log_group *group, uint64_t forget_ids, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    assert(group->number > 0);
    if (group->number > INT64_MAX)
        return error_set(err, ERROR_INVALID, "%s: group %" PRIu64 " is above the numbers that SQLite has",
                         workspace, group->number);
    int rc = sqlite_workspace(s, workspace, &file, err);
    if (rc == STORAGE_ABSENT) {
        error_set(err, ERROR_FENCED, "workspace %s is gone", workspace);
        return STORAGE_FENCED;
    }
    if (rc < 0 || sqlite_file_begin(s, file, err) < 0)
        return -1;
    rc = append(file, writer, group, forget_ids, err);
    sqlite_file_rollback(file);
    return rc;
}

/* ---- reading ---- */

/* The group of the row, whose bytes are those of the events or of the ids. */
static int see_group(struct sqlite_file *file, sqlite3_stmt *stmt, bool events, storage_log_field field,
                     void *data, struct error *err)
{
    struct storage_log_group group = {.number = (uint64_t)sqlite3_column_int64(stmt, 0)};
    const void *bytes = sqlite3_column_blob(stmt, 1);
    size_t len = (size_t)sqlite3_column_bytes(stmt, 1);
    if (!bytes)
        bytes = "";
    if (sqlite3_column_type(stmt, 2) != SQLITE_NULL &&
        (uint64_t)sqlite3_column_int64(stmt, 2) !=
            sqlite_sum(&group.number, sizeof group.number, bytes, len)) {
        char what[80];
        snprintf(what, sizeof what, "group %" PRIu64 " of the event log has another checksum", group.number);
        return sqlite_file_damaged(file, err, what);
    }
    *(events ? &group.events : &group.ids) = bytes;
    *(events ? &group.events_len : &group.ids_len) = len;
    return field(data, &group);
}

static int walk(struct sqlite_file *file, sqlite3_stmt *stmt, bool events, size_t max_bytes,
                storage_log_field field, void *data, struct error *err)
{
    int rc = SQLITE_DONE;
    int result = 0;
    size_t bytes = 0;
    size_t groups = 0;
    while (result >= 0 && (groups == 0 || bytes < max_bytes) && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        bytes += (size_t)sqlite3_column_bytes(stmt, 1);
        groups++;
        result = see_group(file, stmt, events, field, data, err);
    }
    if (sqlite_file_done(file, stmt, result < 0 ? SQLITE_DONE : rc, err) < 0)
        return -1;
    return result < 0 ? result : 0;
}

int sqlite_storage_log_read(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                            storage_log_field field, void *data, struct error *err)
{
    struct sqlite_file *file;
    int rc = sqlite_workspace((struct sqlite_storage *)storage, workspace, &file, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_LOG_READ, err);
    if (!stmt)
        return -1;
    sqlite3_bind_int64(stmt, 1, after < INT64_MAX ? (sqlite3_int64)after : INT64_MAX);
    return walk(file, stmt, true, max_bytes, field, data, err);
}

int sqlite_storage_log_ids(struct storage *storage, const char *workspace, storage_log_field field,
                           void *data, struct error *err)
{
    struct sqlite_file *file;
    int rc = sqlite_workspace((struct sqlite_storage *)storage, workspace, &file, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    sqlite3_stmt *stmt = sqlite_file_statement(file, SQLITE_LOG_IDS, err);
    if (!stmt)
        return -1;
    return walk(file, stmt, false, SIZE_MAX, field, data, err);
}
