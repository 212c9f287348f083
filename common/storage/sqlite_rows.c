/* The tables of fields in SQLite: key, value, and a checksum of both, NULL where a person has changed the
 * row by hand. SQLite itself has no checksums: without them a byte that the disk has changed in a document
 * would go unnoticed. Thread: one at a time. */
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "common/storage/sqlite_internal.h"

static const char *table_name(int table)
{
    if (table == SQLITE_WORKSPACES)
        return "workspaces";
    return table == SQLITE_USERS ? "users" : storage_set_name((enum storage_set)table);
}

static sqlite3_stmt *row_statement(struct sqlite_file *file, int table, enum sqlite_row row,
                                   struct error *err)
{
    static const char *const texts[SQLITE_ROWS] = {
        [ROW_LOAD] = "SELECT key, value, sum FROM %s",
        [ROW_GET] = "SELECT rowid, value, sum FROM %s WHERE key=?1",
        /* NOLINTNEXTLINE(bugprone-suspicious-missing-comma) */
        [ROW_PUT] = "INSERT INTO %s(key, value, sum) VALUES(?1, ?2, ?3)"
                    " ON CONFLICT(key) DO UPDATE SET value=excluded.value, sum=excluded.sum",
        [ROW_UPDATE] = "UPDATE %s SET value=?2, sum=?3 WHERE rowid=?1",
        [ROW_DELETE] = "DELETE FROM %s WHERE key=?1",
    };
    sqlite3_stmt **stmt = &file->rows[table][row];
    if (!*stmt) {
        char *sql = sqlite3_mprintf(texts[row], table_name(table));
        if (!sql) {
            error_set(err, ERROR_MEMORY, "%s: out of memory", file->path);
            return NULL;
        }
        int rc = sqlite3_prepare_v3(file->db, sql, -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL);
        sqlite3_free(sql);
        if (rc != SQLITE_OK)
            sqlite_file_failed(file, rc, err);
    }
    return *stmt;
}

static const char *column_bytes(sqlite3_stmt *stmt, int column, size_t *ret_len)
{
    const char *bytes = sqlite3_column_blob(stmt, column);
    *ret_len = (size_t)sqlite3_column_bytes(stmt, column);
    return bytes ? bytes : "";
}

static void bind_text(sqlite3_stmt *stmt, int index, const char *text, size_t len)
{
    sqlite3_bind_text64(stmt, index, text ? text : "", len, SQLITE_STATIC, SQLITE_UTF8);
}

/* Whether the row has its checksum, in the column after the value. */
static bool is_sound(sqlite3_stmt *stmt, int column, const char *key, size_t key_len, const char *value,
                     size_t len)
{
    return sqlite3_column_type(stmt, column) == SQLITE_NULL ||
           (uint64_t)sqlite3_column_int64(stmt, column) == sqlite_sum(key, key_len, value, len);
}

static int unsound(struct sqlite_file *file, int table, const char *key, size_t key_len, struct error *err)
{
    char what[120];
    snprintf(what, sizeof what, "%s \"%.*s\" has another checksum", table_name(table),
             key_len < 60 ? (int)key_len : 60, key);
    return sqlite_file_damaged(file, err, what);
}

/* ---- reading ---- */

int sqlite_rows_load(struct sqlite_file *file, int table, storage_field field, void *data, struct error *err)
{
    sqlite3_stmt *stmt = row_statement(file, table, ROW_LOAD, err);
    if (!stmt)
        return -1;
    int rc;
    int result = 0;
    while (result >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        size_t key_len;
        size_t len;
        const char *key = column_bytes(stmt, 0, &key_len);
        const char *value = column_bytes(stmt, 1, &len);
        result = is_sound(stmt, 2, key, key_len, value, len) ? field(data, key, key_len, value, len)
                                                             : unsound(file, table, key, key_len, err);
    }
    if (sqlite_file_done(file, stmt, result < 0 ? SQLITE_DONE : rc, err) < 0)
        return -1;
    return result < 0 ? result : 0;
}

/* A found row; its value is valid until found_done. */
struct found {
    sqlite3_stmt *stmt;
    sqlite3_int64 rowid;
    const char *value;
    size_t len;
};

static void found_done(struct found *found)
{
    sqlite3_reset(found->stmt);
    sqlite3_clear_bindings(found->stmt);
}

/* 0, with *ret_found to be ended; STORAGE_ABSENT; or -1. */
static int find(struct sqlite_file *file, int table, const char *key, size_t key_len, struct found *ret_found,
                struct error *err)
{
    sqlite3_stmt *stmt = row_statement(file, table, ROW_GET, err);
    if (!stmt)
        return -1;
    bind_text(stmt, 1, key, key_len);
    int rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW)
        return sqlite_file_done(file, stmt, rc, err) < 0 ? -1 : STORAGE_ABSENT;
    struct found found = {.stmt = stmt, .rowid = sqlite3_column_int64(stmt, 0)};
    found.value = column_bytes(stmt, 1, &found.len);
    if (!is_sound(stmt, 2, key, key_len, found.value, found.len)) {
        found_done(&found);
        unsound(file, table, key, key_len, err);
        return -1;
    }
    *ret_found = found;
    return 0;
}

int sqlite_rows_get(struct sqlite_file *file, int table, const char *key, size_t key_len, storage_field field,
                    void *data, struct error *err)
{
    struct found found;
    int rc = find(file, table, key, key_len, &found, err);
    if (rc != 0)
        return rc;
    if (field)
        rc = field(data, key, key_len, found.value, found.len);
    found_done(&found);
    return rc < 0 ? rc : 0;
}

/* ---- writing ---- */

int sqlite_rows_put(struct sqlite_file *file, int table, const char *key, size_t key_len, const char *value,
                    size_t value_len, struct error *err)
{
    sqlite3_stmt *stmt = row_statement(file, table, ROW_PUT, err);
    if (!stmt)
        return -1;
    bind_text(stmt, 1, key, key_len);
    bind_text(stmt, 2, value, value_len);
    sqlite3_bind_int64(stmt, 3, (sqlite3_int64)sqlite_sum(key, key_len, value, value_len));
    return sqlite_file_done(file, stmt, sqlite3_step(stmt), err);
}

static int update(struct sqlite_file *file, sqlite3_int64 rowid, const struct storage_op *op,
                  struct error *err)
{
    sqlite3_stmt *stmt = row_statement(file, (int)op->set, ROW_UPDATE, err);
    if (!stmt)
        return -1;
    sqlite3_bind_int64(stmt, 1, rowid);
    bind_text(stmt, 2, op->value, op->value_len);
    sqlite3_bind_int64(stmt, 3, (sqlite3_int64)sqlite_sum(op->key, op->key_len, op->value, op->value_len));
    return sqlite_file_done(file, stmt, sqlite3_step(stmt), err);
}

int sqlite_rows_delete(struct sqlite_file *file, int table, const char *key, size_t key_len,
                       struct error *err)
{
    sqlite3_stmt *stmt = row_statement(file, table, ROW_DELETE, err);
    if (!stmt)
        return -1;
    bind_text(stmt, 1, key, key_len);
    if (sqlite_file_done(file, stmt, sqlite3_step(stmt), err) < 0)
        return -1;
    return sqlite3_changes(file->db) > 0 ? 0 : STORAGE_ABSENT;
}

/* Whether a document says "uuid":"UUID", as we and the original client write it; of another form, only its
 * text tells. */
static bool has_uuid(const char *document, size_t len, const char *uuid, size_t uuid_len)
{
    static const char *const before[] = {"\"uuid\":\"", "\"uuid\": \""};
    struct json_value root;
    struct json_value member;
    const char *end = document + len;
    if (uuid_len == 0)
        return true;
    const char *at = memmem(document, len, uuid, uuid_len);
    if (!at && !memchr(document, '\\', len))
        return false;
    while (at) {
        const char *next = at + uuid_len;
        for (size_t i = 0; i < 2 && next < end && *next == '"'; i++) {
            size_t n = strlen(before[i]);
            if ((size_t)(at - document) >= n && memcmp(at - n, before[i], n) == 0)
                return true;
        }
        at = memmem(at + 1, (size_t)(end - at) - 1, uuid, uuid_len);
    }
    return json_scan(document, len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
           json_member(&root, "uuid", &member) && member.type == JSON_STRING &&
           json_equals(&member, uuid, uuid_len);
}

static int apply_if(struct sqlite_file *file, const struct storage_op *op, struct error *err)
{
    struct found found;
    int rc = find(file, (int)op->set, op->key, op->key_len, &found, err);
    if (rc != 0)
        return rc;
    bool same = has_uuid(found.value, found.len, op->uuid, op->uuid_len);
    found_done(&found);
    if (!same)
        return STORAGE_ABSENT;
    return op->kind == STORAGE_PUT_IF ? update(file, found.rowid, op, err)
                                      : sqlite_rows_delete(file, (int)op->set, op->key, op->key_len, err);
}

int sqlite_rows_apply(struct sqlite_file *file, const struct storage_op *op, struct error *err)
{
    int table = (int)op->set;
    switch (op->kind) {
    case STORAGE_DELETE:
        return sqlite_rows_delete(file, table, op->key, op->key_len, err);
    case STORAGE_PUT_IF:
    case STORAGE_DELETE_IF:
        return apply_if(file, op, err);
    case STORAGE_PUT_NEW: {
        int rc = sqlite_rows_get(file, table, op->key, op->key_len, NULL, NULL, err);
        if (rc != STORAGE_ABSENT)
            return rc < 0 ? -1 : STORAGE_EXISTS;
        break;
    }
    case STORAGE_PUT:
        break;
    }
    return sqlite_rows_put(file, table, op->key, op->key_len, op->value, op->value_len, err);
}
