#include "worker/checkpoint/request.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/catalog.h"
#include "worker/crash.h"
#include "worker/checkpoint/cut.h"
#include "worker/globals.h"
#include "worker/checkpoint/injection.h"
#include "worker/report.h"
#include "worker/document/restore.h"
#include "worker/shard/shard.h"
#include "worker/shard/trigger.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

#define HTTP_BAD_REQUEST 400
#define HTTP_NOT_FOUND 404
#define HTTP_CONFLICT 409
#define HTTP_UNAVAILABLE 503

struct request {
    struct request *next;
    struct json_value root;
    int64_t id; /* -1: nobody wants an answer */
    uint64_t count;
    bool reloaded; /* it has waited for a reload */
    size_t len;
    char text[];
};

struct list {
    struct request *head;
    struct request **end;
};

struct requests {
    struct request_scope scope;
    pthread_mutex_t lock;
    struct list fresh; /* Requires: lock */
    /* Thread: checkpoint. */
    struct list waiting;  /* for their turn */
    struct list deferred; /* for a reload */
    struct list applied;  /* for the commit */
    bool redriven;        /* one of them is a redrive */
};

/* Outcomes of a request besides an HTTP status. */
enum { APPLIED = 0, LATER = 1, AFTER_RELOAD = 2 };

/* --- lists --- */

static void list_init(struct list *l)
{
    l->head = NULL;
    l->end = &l->head;
}

static void list_append(struct list *l, struct request *r)
{
    r->next = NULL;
    *l->end = r;
    l->end = &r->next;
}

static struct request *list_take(struct list *l)
{
    struct request *r = l->head;
    if (r && !(l->head = r->next))
        l->end = &l->head;
    return r;
}

static void list_move(struct list *from, struct list *to)
{
    for (struct request *r; (r = list_take(from));)
        list_append(to, r);
}

static void list_done(struct list *l)
{
    for (struct request *r; (r = list_take(l));)
        free(r);
}

struct requests *requests_new(const struct request_scope *scope)
{
    struct requests *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    q->scope = *scope;
    pthread_mutex_init(&q->lock, NULL);
    list_init(&q->fresh);
    list_init(&q->waiting);
    list_init(&q->deferred);
    list_init(&q->applied);
    return q;
}

void requests_free(struct requests *requests)
{
    if (!requests)
        return;
    list_done(&requests->fresh);
    list_done(&requests->waiting);
    list_done(&requests->deferred);
    list_done(&requests->applied);
    pthread_mutex_destroy(&requests->lock);
    free(requests);
}

/* --- taking --- */

bool request_is(const char *kind, size_t len)
{
    static const char *const kinds[] = {"patch", "redrive", "pause", "resume"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strlen(kinds[i]) == len && !memcmp(kinds[i], kind, len))
            return true;
    return false;
}

void requests_put(struct requests *requests, const char *packet, size_t len)
{
    struct request *r = malloc(sizeof *r + len);
    struct json_value id;
    if (!r) /* its sender's time limit tells of it */
        return;
    *r = (struct request){.id = -1, .len = len};
    memcpy(r->text, packet, len);
    if (json_scan(r->text, len, &r->root, NULL) < 0 || r->root.type != JSON_OBJECT) {
        free(r);
        return;
    }
    if (json_member(&r->root, "id", &id) && !json_integer(&id, &r->id))
        r->id = -1;
    pthread_mutex_lock(&requests->lock);
    list_append(&requests->fresh, r);
    pthread_mutex_unlock(&requests->lock);
}

bool requests_waiting(struct requests *requests)
{
    pthread_mutex_lock(&requests->lock);
    bool any = requests->fresh.head;
    pthread_mutex_unlock(&requests->lock);
    return any;
}

/* --- patch --- */

static int patch(struct requests *q, struct request *r, struct error *err)
{
    struct json_value id, context, uuid;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(&r->root, "trigger", &id) || id.type != JSON_STRING ||
        !json_member(&r->root, "context", &context) || context.type != JSON_OBJECT) {
        error_set(err, ERROR_INVALID, "trigger or context is missing or of the wrong type");
        return HTTP_BAD_REQUEST;
    }
    json_unescape(&id, &text);
    struct trigger *t = text.len ? hash_get(&q->scope.catalog->triggers, text.data, text.len) : NULL;
    /* Replaced in storage a moment ago: the one that is known here cannot be stored any more. */
    bool other = t && json_member(&r->root, "uuid", &uuid) && uuid.type == JSON_STRING &&
                 !json_equals(&uuid, t->uuid, t->uuid_len);
    if ((!t || other) && !r->reloaded)
        return AFTER_RELOAD;
    if (other) {
        error_set(err, ERROR_EXISTS, "Trigger %s was replaced meanwhile", buffer_text(&text));
        return HTTP_CONFLICT;
    }
    if (!t || shard_patch(q->scope.worker->shards[t->shard], t, &context, err) == SHARD_GONE) {
        error_set(err, ERROR_NOT_FOUND, "Trigger %s not found", buffer_text(&text));
        return HTTP_NOT_FOUND;
    }
    if (err->code)
        return err->code == ERROR_INVALID ? HTTP_BAD_REQUEST : HTTP_UNAVAILABLE;
    r->count = 1;
    return APPLIED;
}

/* --- redrive --- */

struct letter {
    /* One of them is there. */
    struct json_value event;
    struct json_value intent;
    struct json_value write; /* into triggers' contexts (write.h) */
    size_t number_len;
    size_t len;
    char *text; /* the letter, the number */
};

struct redrive {
    struct letter *letters;
    size_t n;
    const char **numbers;
    size_t wanted;
    struct hash_table seen; /* numbers */
    struct buffer text;     /* of numbers; reserved, so that it does not move */
};

static void redrive_done(struct redrive *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->letters[i].text);
    free(d->letters);
    free(d->numbers);
    hash_done(&d->seen);
    buffer_done(&d->text);
}

static int out_of_memory(struct error *err)
{
    error_set(err, ERROR_MEMORY, "out of memory");
    return HTTP_UNAVAILABLE;
}

/* The numbers that a request names, each once. */
static int read_numbers(struct redrive *d, const struct request *r, struct error *err)
{
    struct json_value list, name, value;
    struct json_iter iter;
    bool bad = !json_member(&r->root, "numbers", &list) || list.type != JSON_ARRAY;
    size_t most = r->len / 2;
    d->numbers = malloc(most * sizeof *d->numbers);
    if (!d->numbers || !buffer_reserve(&d->text, r->len * 2))
        return out_of_memory(err);
    if (!bad)
        json_iter_init(&iter, &list);
    while (!bad && json_next(&iter, &name, &value)) {
        size_t start = d->text.len;
        bad = value.type != JSON_STRING || !value.len;
        if (bad)
            break;
        json_unescape(&value, &d->text);
        buffer_append_char(&d->text, '\0');
        char *number = d->text.data + start;
        size_t len = strlen(number);
        if (!len || hash_get(&d->seen, number, len))
            continue;
        if (hash_put(&d->seen, number, len, number, NULL) < 0)
            return out_of_memory(err);
        d->numbers[d->wanted++] = number;
    }
    if (!bad)
        return APPLIED;
    error_set(err, ERROR_INVALID, "numbers is not a list of dead letters' numbers");
    return HTTP_BAD_REQUEST;
}

static int see_letter(void *data, const char *number, size_t number_len, const char *document, size_t len)
{
    struct redrive *d = data;
    if (d->n == d->wanted)
        return 0;
    struct letter *l = &d->letters[d->n];
    if (!(l->text = malloc(len + number_len + 1)))
        return -1;
    memcpy(l->text, document, len);
    memcpy(l->text + len, number, number_len);
    l->text[len + number_len] = '\0';
    l->len = len;
    l->number_len = number_len;
    d->n++;
    hash_remove(&d->seen, number, number_len);
    return 0;
}

static int check_content(const struct letter *l, struct buffer *scratch, struct error *err)
{
    struct cloudevent event;
    size_t len;
    if (l->write.type == JSON_OBJECT)
        return write_read(&event, &l->write, scratch, err);
    const char *raw = json_raw(&l->event, &len);
    if (cloudevent_parse(&event, raw, len, scratch, err) < 0)
        return -1;
    return cloudevent_check(&event, err);
}

/* What the letter holds: an intent that was given up, an event, or a write. */
static int open_letter(struct letter *l, struct error *err)
{
    struct json_value root, reason;
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO why = BUFFER_INIT;
    const char *number = l->text + l->len;
    if (json_scan(l->text, l->len, &root, err) < 0 || root.type != JSON_OBJECT) {
        error_set(err, ERROR_INVALID, "dead letter %s is not a JSON object", number);
        return HTTP_CONFLICT;
    }
    if (json_member(&root, "intent", &l->intent) && l->intent.type == JSON_OBJECT)
        return APPLIED;
    l->intent.type = JSON_ABSENT;
    if ((!json_member(&root, "event", &l->event) || l->event.type != JSON_OBJECT) &&
        (!json_member(&root, "write", &l->write) || l->write.type != JSON_OBJECT)) {
        if (json_member(&root, "reason", &reason) && reason.type == JSON_STRING)
            json_unescape(&reason, &why);
        error_set(err, ERROR_INVALID, "dead letter %s (%s) holds no CloudEvent", number, buffer_text(&why));
        return HTTP_CONFLICT;
    }
    if (check_content(l, &scratch, err) < 0) {
        error_prefix(err, "dead letter %s", number);
        return HTTP_CONFLICT;
    }
    return APPLIED;
}

static int read_letters(struct requests *q, struct redrive *d, struct error *err)
{
    const struct request_scope *scope = &q->scope;
    d->letters = calloc(d->wanted + 1, sizeof *d->letters);
    if (!d->letters)
        return out_of_memory(err);
    if (d->wanted && scope->storage->type->get(scope->storage, scope->worker->workspace, STORAGE_DEAD_LETTERS,
                                               d->numbers, d->wanted, see_letter, d, err) < 0) {
        report_storage(scope->worker->report, err);
        return HTTP_UNAVAILABLE;
    }
    size_t cursor = 0;
    struct hash_entry *missing = hash_next(&d->seen, &cursor);
    if (missing) {
        error_set(err, ERROR_NOT_FOUND, "Dead letter %.*s not found", (int)missing->key_len, missing->key);
        return HTTP_NOT_FOUND;
    }
    for (size_t i = 0; i < d->n; i++) {
        int status = open_letter(&d->letters[i], err);
        if (status)
            return status;
    }
    return APPLIED;
}

static int see_document(void *data, const char *id, size_t id_len, const char *document, size_t len)
{
    (void)id;
    (void)id_len;
    buffer_append(data, document, len);
    return 0;
}

/* The intent of a letter with the secrets that the letter does not show, as they are now. */
static int restore_intent(struct requests *q, const struct letter *l, struct buffer *out, struct error *err)
{
    const struct request_scope *scope = &q->scope;
    struct json_value id;
    struct json_value from[2];
    size_t n = 0;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO trigger = BUFFER_INIT;
    if (json_member(&l->intent, "trigger", &id) && id.type == JSON_STRING)
        json_unescape(&id, &name);
    const char *key = buffer_text(&name);
    if (*key && scope->storage->type->get(scope->storage, scope->worker->workspace, STORAGE_TRIGGERS, &key, 1,
                                          see_document, &trigger, err) < 0)
        return -1;
    if (trigger.len && json_scan(trigger.data, trigger.len, &from[n], NULL) == 0)
        n++;
    struct globals *globals = globals_get(&scope->worker->globals);
    if (globals)
        from[n++] = globals->root;
    int r = restore_secrets(&l->intent, from, n, out, err);
    globals_unref(globals);
    return r;
}

/* Whether its trigger makes it again: then nothing of it is needed but its key. */
static bool is_repeated(const struct json_value *intent)
{
    struct json_value name;
    if (!json_member(intent, "action", &name) || name.type != JSON_STRING)
        return false;
    const struct action_type *action = action_find(name.text, name.len);
    return action && action->again;
}

static int send_intent(struct requests *q, const struct letter *l, const struct injection_origin *origin,
                       struct error *err)
{
    BUFFER_AUTO whole = BUFFER_INIT;
    size_t len;
    const char *raw = json_raw(&l->intent, &len);
    if (!restore_is_needed(&l->intent) || is_repeated(&l->intent))
        return injection_intent(q->scope.injection, raw, len, origin, err);
    if (restore_intent(q, l, &whole, err) < 0)
        return -1;
    return injection_intent(q->scope.injection, whole.data, whole.len, origin, err);
}

static int send_letter(struct requests *q, const struct letter *l, struct error *err)
{
    struct injection_origin origin = {STORAGE_DEAD_LETTERS, l->text + l->len, l->number_len};
    struct cloudevent event;
    BUFFER_AUTO scratch = BUFFER_INIT;
    size_t len;
    if (l->intent.type == JSON_OBJECT)
        return send_intent(q, l, &origin, err);
    if (l->write.type == JSON_OBJECT)
        return write_read(&event, &l->write, &scratch, err) < 0
                   ? -1
                   : injection_write(q->scope.injection, &event, &origin, err);
    const char *raw = json_raw(&l->event, &len);
    if (cloudevent_parse(&event, raw, len, &scratch, err) < 0)
        return -1;
    return injection_event(q->scope.injection, &event, &origin, err);
}

static int send_letters(struct requests *q, const struct redrive *d, struct request *r, struct error *err)
{
    for (size_t i = 0; i < d->n; i++) {
        if (send_letter(q, &d->letters[i], err) < 0) {
            if (i)
                break; /* those sent are on their way: the count tells how many */
            return err->code == ERROR_INVALID ? HTTP_CONFLICT : HTTP_UNAVAILABLE;
        }
        q->scope.cut->dead_letters_removed += d->letters[i].len;
        r->count++;
    }
    q->redriven = r->count > 0;
    return APPLIED;
}

static int redrive(struct requests *q, struct request *r, struct error *err)
{
    struct redrive d = {.text = BUFFER_INIT};
    if (q->redriven) /* its letters are still stored and could be named again */
        return LATER;
    hash_init(&d.seen);
    int status = read_numbers(&d, r, err);
    if (!status)
        status = read_letters(q, &d, err);
    if (!status)
        status = send_letters(q, &d, r, err);
    redrive_done(&d);
    return status;
}

/* --- pause and resume --- */

static int hold(struct requests *q, struct request *r, bool held)
{
    struct changes *changes = &q->scope.cut->changes;
    worker_hold(q->scope.worker, held);
    if (held)
        changes_put(changes, STORAGE_CHECKPOINT, "paused", 6, "1", 1);
    else
        changes_put(changes, STORAGE_CHECKPOINT, "paused", 6, "0", 1);
    r->count = 1;
    return APPLIED;
}

/* --- carrying out --- */

static int apply(struct requests *q, struct request *r, struct error *err)
{
    struct json_value kind;
    *err = (struct error){0};
    if (!json_member(&r->root, "message", &kind) || kind.type != JSON_STRING)
        return HTTP_BAD_REQUEST;
    if (json_equals(&kind, "patch", 5))
        return patch(q, r, err);
    if (json_equals(&kind, "redrive", 7))
        return redrive(q, r, err);
    return hold(q, r, json_equals(&kind, "pause", 5));
}

bool requests_apply(struct requests *requests, bool *ret_reload)
{
    struct list later;
    list_init(&later);
    *ret_reload = false;
    pthread_mutex_lock(&requests->lock);
    list_move(&requests->fresh, &requests->waiting);
    pthread_mutex_unlock(&requests->lock);
    for (struct request *r; (r = list_take(&requests->waiting));) {
        struct error err;
        int outcome = apply(requests, r, &err);
        crash_point("request_applied");
        switch (outcome) {
        case APPLIED:
            list_append(&requests->applied, r);
            break;
        case LATER:
            list_append(&later, r);
            break;
        case AFTER_RELOAD:
            list_append(&requests->deferred, r);
            *ret_reload = true;
            break;
        default:
            worker_refuse(requests->scope.worker, r->id, outcome, err.message);
            free(r);
        }
    }
    list_move(&later, &requests->waiting);
    return requests->applied.head;
}

void requests_reloaded(struct requests *requests)
{
    for (struct request *r; (r = list_take(&requests->deferred));) {
        r->reloaded = true;
        list_append(&requests->waiting, r);
    }
}

void requests_committed(struct requests *requests)
{
    requests->redriven = false;
    for (struct request *r; (r = list_take(&requests->applied));) {
        worker_answer(requests->scope.worker, r->id, r->count);
        free(r);
    }
}

void requests_refuse(struct requests *requests)
{
    struct list all;
    list_init(&all);
    pthread_mutex_lock(&requests->lock);
    list_move(&requests->fresh, &all);
    pthread_mutex_unlock(&requests->lock);
    list_move(&requests->waiting, &all);
    list_move(&requests->deferred, &all);
    list_move(&requests->applied, &all);
    for (struct request *r; (r = list_take(&all));) {
        worker_refuse(requests->scope.worker, r->id, HTTP_UNAVAILABLE, "the worker is ending");
        free(r);
    }
}
