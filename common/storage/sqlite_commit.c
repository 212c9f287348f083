/* What workers write to SQLite: claims, commits and the event log. See sqlite_internal.h. Thread: one at a
 * time. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "common/storage/sqlite_internal.h"

/* ---- operations ---- */

/* Whether a stored document has this uuid. */
static bool has_uuid(const char *document, size_t len, const struct storage_op *op)
{
    struct json_value root;
    struct json_value uuid;
    if (op->uuid_len == 0)
        return true;
    return json_scan(document, len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
           json_member(&root, "uuid", &uuid) && uuid.type == JSON_STRING &&
           json_equals(&uuid, op->uuid, op->uuid_len);
}

static int matches(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_op *op,
                   struct error *err)
{
    const char *value;
    size_t len;
    int rc = sqlite_get_field(s, db, op->set, op->key, op->key_len, &value, &len, err);
    if (rc != 0)
        return rc;
    rc = has_uuid(value, len, op) ? 0 : STORAGE_ABSENT;
    sqlite3_reset(db->field[op->set][VERB_GET]);
    return rc;
}

int sqlite_apply(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_op *op,
                 struct error *err)
{
    bool conditional = op->kind == STORAGE_PUT_IF || op->kind == STORAGE_DELETE_IF;
    bool deletes = op->kind == STORAGE_DELETE || op->kind == STORAGE_DELETE_IF;
    int rc = conditional ? matches(s, db, op, err) : 0;
    if (rc != 0)
        return rc;
    enum sqlite_verb verb = deletes ? VERB_DELETE : op->kind == STORAGE_PUT_NEW ? VERB_PUT_NEW : VERB_PUT;
    sqlite3_stmt *statement = sqlite_field(s, db, op->set, verb, err);
    if (!statement)
        return -1;
    sqlite_bind_bytes(statement, 1, op->key, op->key_len);
    if (!deletes)
        sqlite_bind_bytes(statement, 2, op->value, op->value_len);
    if (sqlite_run(s, db, statement, err) < 0)
        return -1;
    if (sqlite3_changes(db->handle) > 0)
        return 0;
    return deletes ? STORAGE_ABSENT : STORAGE_EXISTS;
}

static int put_text(struct sqlite_storage *s, struct sqlite_db *db, const char *key, const char *value,
                    struct error *err)
{
    struct storage_op op = {.set = STORAGE_CHECKPOINT,
                            .kind = STORAGE_PUT,
                            .key = key,
                            .key_len = strlen(key),
                            .value = value,
                            .value_len = strlen(value)};
    return sqlite_apply(s, db, &op, err);
}

/* A short field of the checkpoint as text, "" when absent. */
static int get_text(struct sqlite_storage *s, struct sqlite_db *db, const char *key, char ret_text[64],
                    struct error *err)
{
    const char *value = "";
    size_t len = 0;
    int rc = sqlite_get_field(s, db, STORAGE_CHECKPOINT, key, strlen(key), &value, &len, err);
    if (rc < 0)
        return -1;
    snprintf(ret_text, 64, "%.*s", (int)(len < 64 ? len : 63), value);
    if (rc == 0)
        sqlite3_reset(db->field[STORAGE_CHECKPOINT][VERB_GET]);
    return 0;
}

/* ---- claim ---- */

static int claim_within(struct sqlite_storage *s, struct sqlite_db *db, const char *writer,
                        struct storage_claim *ret_claim, struct error *err)
{
    char epoch[64];
    char format[64];
    char *end;
    if (get_text(s, db, "epoch", epoch, err) < 0 || get_text(s, db, "format", format, err) < 0)
        return -1;
    if (strtoull(format, NULL, 10) > STORAGE_FORMAT)
        return error_set(err, ERROR_REFUSED, "%.150s: its checkpoint has format %.20s, newer than %d",
                         db->path, format, STORAGE_FORMAT);
    ret_claim->epoch = strtoull(epoch, &end, 10);
    if (*end)
        return error_set(err, ERROR_REFUSED, "%.150s: epoch \"%.40s\" is no number", db->path, epoch);
    snprintf(format, sizeof format, "%d", STORAGE_FORMAT);
    if (put_text(s, db, "format", format, err) < 0 || put_text(s, db, "writer", writer, err) < 0 ||
        put_text(s, db, "epoch", epoch[0] ? epoch : "0", err) < 0 ||
        put_text(s, db, "creation", ret_claim->creation, err) < 0)
        return -1;
    return 0;
}

int sqlite_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                         struct storage_claim *ret_claim, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct storage_claim claim = {.durable = true, .durability = "always"};
    struct sqlite_db *db;
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc == 0)
        rc = sqlite_do(s, db, SQL_BEGIN, err);
    if (rc == 0)
        rc = sqlite_creation(s, db, claim.creation, err);
    if (rc == 0)
        rc = claim_within(s, db, writer, &claim, err);
    if (rc == 0)
        rc = sqlite_do(s, db, SQL_COMMIT, err);
    if (rc == 0)
        *ret_claim = claim;
    else
        sqlite_forget(s, workspace); /* and with it the transaction */
    return rc;
}

/* ---- commit ---- */

/* Whether the stored epoch and writer allow it: 0, 1: it is done already, or STORAGE_...; -1. */
enum { COMMIT_DONE = 100 };
static int judge(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_commit *c,
                 const char *creation, struct error *err)
{
    char epoch_text[64];
    char writer[64];
    if (get_text(s, db, "epoch", epoch_text, err) < 0 || get_text(s, db, "writer", writer, err) < 0)
        return -1;
    uint64_t epoch = strtoull(epoch_text, NULL, 10);
    if (strcmp(creation, c->creation) != 0)
        error_set(err, ERROR_FENCED, "workspace %.100s was created anew at %.40s (ours: %.40s)", c->workspace,
                  creation, c->creation);
    else if (writer[0] && strcmp(writer, c->writer) != 0)
        error_set(err, ERROR_FENCED, "workspace %.100s belongs to another writer, %.40s", c->workspace,
                  writer);
    else if (writer[0] && epoch == c->epoch)
        return COMMIT_DONE;
    else if (writer[0] && epoch == c->epoch - 1)
        return 0;
    else {
        error_set(err, ERROR_FENCED,
                  "workspace %.100s is at epoch %" PRIu64 ", not %" PRIu64 ": the storage has lost data",
                  c->workspace, epoch, c->epoch - 1);
        return STORAGE_ROLLED_BACK;
    }
    return STORAGE_FENCED;
}

/* Puts before deletions, set by set (storage.h). */
static int apply_all(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_commit *c,
                     struct error *err)
{
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < c->n_ops; i++) {
            enum storage_op_kind kind = c->ops[i].kind;
            bool deletes = kind == STORAGE_DELETE || kind == STORAGE_DELETE_IF;
            if (deletes == (pass == 1) && sqlite_apply(s, db, &c->ops[i], err) < 0)
                return -1;
        }
    return 0;
}

static int consume(struct sqlite_storage *s, struct sqlite_db *db, uint64_t up_to, struct error *err)
{
    if (up_to == 0)
        return 0;
    sqlite3_stmt *statement = sqlite_statement(s, db, SQL_LOG_CONSUME, err);
    if (!statement)
        return -1;
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)up_to);
    return sqlite_run(s, db, statement, err);
}

static int commit_within(struct sqlite_storage *s, struct sqlite_db *db, const struct storage_commit *c,
                         struct error *err)
{
    char creation[64];
    char epoch[32];
    int rc = sqlite_creation(s, db, creation, err);
    if (rc == STORAGE_ABSENT) {
        error_set(err, ERROR_FENCED, "workspace %.100s is gone", c->workspace);
        return STORAGE_FENCED;
    }
    if (rc == 0)
        rc = judge(s, db, c, creation, err);
    if (rc != 0)
        return rc;
    snprintf(epoch, sizeof epoch, "%" PRIu64, c->epoch);
    if (apply_all(s, db, c, err) < 0 || consume(s, db, c->log_consumed, err) < 0 ||
        put_text(s, db, "epoch", epoch, err) < 0)
        return -1;
    return sqlite_do(s, db, SQL_COMMIT, err);
}

int sqlite_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    assert(commit->epoch > 0);
    int rc = sqlite_workspace(s, commit->workspace, &db, NULL, err);
    if (rc == STORAGE_ABSENT) {
        error_set(err, ERROR_FENCED, "workspace %.100s is gone", commit->workspace);
        return STORAGE_FENCED;
    }
    if (rc < 0 || sqlite_do(s, db, SQL_BEGIN, err) < 0)
        return -1;
    rc = commit_within(s, db, commit, err);
    sqlite_rollback(s, db); /* unless it has committed */
    return rc == COMMIT_DONE ? 0 : rc;
}

/* ---- the event log ---- */

static int check_writer(struct sqlite_storage *s, struct sqlite_db *db, const char *workspace,
                        const char *writer, struct error *err)
{
    char stored[64];
    char creation[64];
    int rc = sqlite_creation(s, db, creation, err);
    if (rc == STORAGE_ABSENT)
        error_set(err, ERROR_FENCED, "workspace %.100s is gone", workspace);
    if (rc != 0)
        return rc < 0 ? rc : STORAGE_FENCED;
    if (get_text(s, db, "writer", stored, err) < 0)
        return -1;
    if (strcmp(stored, writer) == 0)
        return 0;
    error_set(err, ERROR_FENCED, "workspace %.100s belongs to another writer, %.40s", workspace,
              stored[0] ? stored : "none");
    return STORAGE_FENCED;
}

/* 0: it is new; 1: it was appended before; -1. */
static int judge_number(struct sqlite_storage *s, struct sqlite_db *db, const char *writer, uint64_t number,
                        struct error *err)
{
    sqlite3_stmt *statement = sqlite_statement(s, db, SQL_LOG_LAST, err);
    if (!statement)
        return -1;
    int rc = sqlite3_step(statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return sqlite_fail(s, db, "read", err);
    uint64_t last = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
    bool ours = rc == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(statement, 1), writer) == 0;
    sqlite3_reset(statement);
    if (number > last)
        return 0;
    if (number == last && ours)
        return 1;
    return error_set(err, ERROR_INVALID, "%.150s: group %" PRIu64 " comes after group %" PRIu64, db->path,
                     number, last);
}

static int append_rows(struct sqlite_storage *s, struct sqlite_db *db, const char *writer,
                       const struct storage_log_group *group, uint64_t forget_ids, struct error *err)
{
    sqlite3_stmt *put = sqlite_statement(s, db, SQL_LOG_PUT, err);
    sqlite3_stmt *ids = put ? sqlite_statement(s, db, SQL_LOG_IDS_PUT, err) : NULL;
    if (!put || !ids)
        return -1;
    sqlite3_bind_int64(put, 1, (sqlite3_int64)group->number);
    sqlite_bind_bytes(put, 2, group->events, group->events_len);
    sqlite3_bind_int64(ids, 1, (sqlite3_int64)group->number);
    sqlite3_bind_text(ids, 2, writer, -1, SQLITE_STATIC);
    sqlite_bind_bytes(ids, 3, group->ids, group->ids_len);
    if (sqlite_run(s, db, put, err) < 0 || sqlite_run(s, db, ids, err) < 0)
        return -1;
    if (forget_ids == 0)
        return 0;
    sqlite3_stmt *forget = sqlite_statement(s, db, SQL_LOG_FORGET, err);
    if (!forget)
        return -1;
    sqlite3_bind_int64(forget, 1, (sqlite3_int64)(forget_ids < group->number ? forget_ids : group->number));
    return sqlite_run(s, db, forget, err);
}

int sqlite_storage_log_append(struct storage *storage, const char *workspace, const char *writer,
                              const struct storage_log_group *group, uint64_t forget_ids, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    assert(group->number > 0 && group->number <= INT64_MAX);
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc == STORAGE_ABSENT) {
        error_set(err, ERROR_FENCED, "workspace %.100s is gone", workspace);
        return STORAGE_FENCED;
    }
    if (rc < 0 || sqlite_do(s, db, SQL_BEGIN, err) < 0)
        return -1;
    rc = check_writer(s, db, workspace, writer, err);
    if (rc == 0)
        rc = judge_number(s, db, writer, group->number, err);
    if (rc == 0) {
        rc = append_rows(s, db, writer, group, forget_ids, err);
        if (rc == 0)
            rc = sqlite_do(s, db, SQL_COMMIT, err);
    } else if (rc == 1) {
        rc = 0;
    }
    sqlite_rollback(s, db); /* unless it has committed */
    return rc;
}

/* Walks rows of (number, bytes). */
static int walk(struct sqlite_storage *s, struct sqlite_db *db, sqlite3_stmt *statement, bool ids,
                size_t max_bytes, storage_log_field field, void *data, struct error *err)
{
    size_t bytes = 0;
    int rc;
    do {
        rc = sqlite3_step(statement);
        if (rc != SQLITE_ROW)
            break;
        const void *text = sqlite3_column_blob(statement, 1);
        size_t len = (size_t)sqlite3_column_bytes(statement, 1);
        struct storage_log_group group = {.number = (uint64_t)sqlite3_column_int64(statement, 0)};
        *(ids ? &group.ids : &group.events) = text ? text : "";
        *(ids ? &group.ids_len : &group.events_len) = len;
        bytes += len;
        int result = field(data, &group);
        if (result < 0) {
            sqlite3_reset(statement);
            return result;
        }
    } while (bytes < max_bytes);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return sqlite_fail(s, db, "read", err);
    sqlite3_reset(statement);
    return 0;
}

int sqlite_storage_log_read(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                            storage_log_field field, void *data, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc != 0 || after >= INT64_MAX)
        return rc < 0 ? rc : 0;
    sqlite3_stmt *statement = sqlite_statement(s, db, SQL_LOG_READ, err);
    if (!statement)
        return -1;
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)after);
    return walk(s, db, statement, false, max_bytes, field, data, err);
}

int sqlite_storage_log_ids(struct storage *storage, const char *workspace, storage_log_field field,
                           void *data, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_db *db;
    int rc = sqlite_workspace(s, workspace, &db, NULL, err);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    sqlite3_stmt *statement = sqlite_statement(s, db, SQL_LOG_IDS, err);
    return statement ? walk(s, db, statement, true, SIZE_MAX, field, data, err) : -1;
}
