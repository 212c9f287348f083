#include "tests/support/fake_sqs.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/json.h"
#include "tests/support/fake_http.h"

#define WAITING_MOST 64 /* long polls */
#define LATE_MOST 128   /* requests that come late */
#define TICK (50 * CLOCK_MS)
#define SENT_MOST 4096
#define NONE UINT32_MAX

enum message_state { READY, IN_FLIGHT, GONE };

struct message {
    char *body; /* as a JSON string */
    uint32_t group;
    uint32_t times; /* received */
    enum message_state state;
    uint64_t visible_ns;
    uint32_t next; /* in the list of what is ready */
};

struct waiting {
    struct MHD_Connection *connection;
    uint64_t until_ns;
};

struct fake_sqs {
    struct fake_http *http;
    bool fifo;
    uint64_t visibility_ns;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    pthread_t ticker;
    bool stopping;
    struct message *messages;
    size_t n, cap, left, in_flight;
    uint32_t first, last; /* ready */
    uint32_t oldest;      /* nothing before it is in flight */
    uint32_t group_flying[256];
    struct waiting waiting[WAITING_MOST];
    size_t n_waiting;
    uint64_t latency_ns;
    struct waiting late[LATE_MOST]; /* in the order of their times */
    size_t n_late;
    struct fake_sqs_faults faults;
    struct fake_sqs_counts counts;
    char *sent[SENT_MOST];
    size_t n_sent;
    unsigned key;   /* of the last request */
    char token[64]; /* likewise */
};

/* --- the queue; all of it requires the lock --- */

static uint32_t group_number(const char *text)
{
    uint32_t hash = 2166136261u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash % 256;
}

/* At the end of those that are ready; in a FIFO queue at its place, as its group comes in its order. */
static void make_ready(struct fake_sqs *f, uint32_t at)
{
    struct message *m = &f->messages[at];
    m->state = READY;
    uint32_t before = NONE;
    if (f->fifo)
        for (uint32_t i = f->first; i != NONE && i < at; i = f->messages[i].next)
            before = i;
    else
        before = f->last;
    uint32_t next = before == NONE ? f->first : f->messages[before].next;
    m->next = next;
    if (before == NONE)
        f->first = at;
    else
        f->messages[before].next = at;
    if (next == NONE)
        f->last = at;
}

static void wake_one(struct fake_sqs *f)
{
    if (!f->n_waiting)
        return;
    fake_http_resume(f->waiting[0].connection);
    f->n_waiting--;
    memmove(f->waiting, f->waiting + 1, f->n_waiting * sizeof f->waiting[0]);
}

static void land(struct fake_sqs *f, struct message *m)
{
    f->in_flight--;
    f->group_flying[m->group]--;
}

static void expire(struct fake_sqs *f, uint64_t now)
{
    bool early = true;
    for (uint32_t i = f->oldest; i < f->n; i++) {
        struct message *m = &f->messages[i];
        if (m->state == IN_FLIGHT && m->visible_ns <= now) {
            land(f, m);
            make_ready(f, i);
            wake_one(f);
        }
        early &= m->state == GONE;
        if (early)
            f->oldest = i + 1;
    }
}

static void append_message(struct buffer *out, const struct message *m, uint32_t at)
{
    buffer_printf(
        out,
        "{\"MessageId\":\"%08x-0000-4000-8000-%012x\",\"ReceiptHandle\":\"%u-%u\",\"MD5OfBody\":\"\","
        "\"Attributes\":{\"SentTimestamp\":\"%llu\"},\"Body\":",
        at, at, at, m->times, (unsigned long long)(clock_unix_ns() / CLOCK_MS));
    buffer_append_text(out, m->body);
    buffer_append_char(out, '}');
}

/* Up to `most` of those that are ready; returns how many. */
static unsigned take(struct fake_sqs *f, unsigned most, uint64_t visibility_ns, struct buffer *out)
{
    unsigned n = 0;
    bool here[256] = {false};
    uint32_t before = NONE;
    uint64_t visible = clock_now_ns() + visibility_ns;
    for (uint32_t i = f->first, next; i != NONE && n < most; i = next) {
        struct message *m = &f->messages[i];
        next = m->next;
        if (f->fifo && f->group_flying[m->group] && !here[m->group]) {
            before = i;
            continue;
        }
        if (before == NONE)
            f->first = next;
        else
            f->messages[before].next = next;
        if (f->last == i)
            f->last = before;
        here[m->group] = true;
        f->group_flying[m->group]++;
        f->in_flight++;
        m->times++;
        m->state = IN_FLIGHT;
        m->visible_ns = visible;
        if (n++)
            buffer_append_char(out, ',');
        append_message(out, m, i);
    }
    f->counts.received += n;
    return n;
}

/* The message that a receipt handle names, if it is its newest; else NULL. */
static struct message *named(struct fake_sqs *f, const struct json_value *receipt)
{
    unsigned at, times;
    if (receipt->type != JSON_STRING || sscanf(receipt->text, "%u-%u", &at, &times) != 2 || at >= f->n ||
        (f->messages[at].state != GONE && f->messages[at].times != times))
        return NULL;
    return &f->messages[at];
}

static void remove_message(struct fake_sqs *f, struct message *m)
{
    if (m->state != IN_FLIGHT)
        return; /* READY ones are left: it was given back meanwhile */
    land(f, m);
    m->state = GONE;
    f->left--;
    free(m->body);
    m->body = NULL;
    if (f->fifo)
        wake_one(f); /* its group is free again */
}

/* --- operations --- */

static uint64_t number(const struct json_value *object, const char *name, uint64_t fallback)
{
    struct json_value value;
    int64_t n;
    return json_member(object, name, &value) && value.type == JSON_NUMBER && json_integer(&value, &n)
               ? (uint64_t)n
               : fallback;
}

static bool hang(struct fake_sqs *f, const struct fake_request *r, uint64_t wait_s)
{
    uint64_t until_ns =
        r->since_ns + wait_s * CLOCK_S; /* also when another was quicker to take what woke it */
    if (f->stopping || clock_now_ns() >= until_ns || f->n_waiting == WAITING_MOST)
        return false;
    f->waiting[f->n_waiting++] = (struct waiting){r->connection, until_ns};
    if (f->n_waiting > f->counts.receiving_most)
        f->counts.receiving_most = f->n_waiting;
    pthread_cond_signal(&f->changed);
    return true;
}

static bool receive(struct fake_sqs *f, const struct fake_request *r, const struct json_value *body,
                    struct buffer *out)
{
    BUFFER_AUTO messages = BUFFER_INIT;
    f->counts.receives += !r->times;
    if (f->in_flight && f->first == NONE)
        expire(f, clock_now_ns());
    unsigned n = take(f, (unsigned)number(body, "MaxNumberOfMessages", 1),
                      number(body, "VisibilityTimeout", f->visibility_ns / CLOCK_S) * CLOCK_S, &messages);
    if (!n && hang(f, r, number(body, "WaitTimeSeconds", 0)))
        return false;
    buffer_append_text(out, "{\"Messages\":[");
    buffer_append(out, messages.data, messages.len);
    buffer_append_text(out, "]}");
    return true;
}

/* One entry of a batch; NULL: done, else the code of its failure. */
typedef const char *(*entry_function)(struct fake_sqs *f, const struct json_value *entry, bool *ret_fault);

static const char *delete_entry(struct fake_sqs *f, const struct json_value *entry, bool *ret_fault)
{
    struct json_value receipt;
    *ret_fault = false;
    if (f->faults.delete_entries && f->faults.delete_entries-- % 2) {
        f->counts.delete_failures++;
        return "InternalError";
    }
    json_member(entry, "ReceiptHandle", &receipt);
    struct message *m = f->faults.lose_receipts ? NULL : named(f, &receipt);
    f->faults.lose_receipts -= f->faults.lose_receipts > 0;
    *ret_fault = true;
    if (!m)
        return "ReceiptHandleIsInvalid";
    remove_message(f, m);
    f->counts.deleted++;
    return NULL;
}

static const char *change_entry(struct fake_sqs *f, const struct json_value *entry, bool *ret_fault)
{
    struct json_value receipt;
    uint64_t seconds = number(entry, "VisibilityTimeout", 0);
    json_member(entry, "ReceiptHandle", &receipt);
    struct message *m = named(f, &receipt);
    *ret_fault = true;
    if (!m || m->state != IN_FLIGHT)
        return "MessageNotInflight";
    m->visible_ns = clock_now_ns() + seconds * CLOCK_S;
    if (seconds)
        f->counts.extended++;
    else
        f->counts.released++;
    return NULL;
}

static const char *text_of(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    if (json_member(object, name, &value) && value.type == JSON_STRING)
        json_unescape(&value, out);
    return buffer_text(out);
}

static const char *send_entry(struct fake_sqs *f, const struct json_value *entry, bool *ret_fault)
{
    BUFFER_AUTO line = BUFFER_INIT;
    text_of(entry, "MessageGroupId", &line);
    buffer_append_char(&line, '|');
    text_of(entry, "MessageDeduplicationId", &line);
    buffer_append_char(&line, '|');
    text_of(entry, "MessageBody", &line);
    *ret_fault = true;
    if (strstr(buffer_text(&line), "refuse-me"))
        return "InvalidMessageContents";
    if (f->n_sent < SENT_MOST)
        f->sent[f->n_sent++] = strdup(buffer_text(&line));
    return NULL;
}

static void batch(struct fake_sqs *f, const struct json_value *body, entry_function each, struct buffer *out)
{
    struct json_value entries, name, entry, id;
    struct json_iter iter;
    BUFFER_AUTO failed = BUFFER_INIT;
    bool first = true;
    buffer_append_text(out, "{\"Successful\":[");
    if (json_member(body, "Entries", &entries) && entries.type == JSON_ARRAY) {
        json_iter_init(&iter, &entries);
        while (json_next(&iter, &name, &entry)) {
            bool fault;
            const char *code = each(f, &entry, &fault);
            json_member(&entry, "Id", &id);
            if (code)
                buffer_printf(&failed,
                              "%s{\"Id\":\"%.*s\",\"Code\":\"%s\",\"SenderFault\":%s,\"Message\":\"m\"}",
                              failed.len ? "," : "", (int)id.len, id.text, code, fault ? "true" : "false");
            else
                buffer_printf(out, "%s{\"Id\":\"%.*s\"}", first ? "" : ",", (int)id.len, id.text);
            first &= code != NULL;
        }
    }
    buffer_append_text(out, "],\"Failed\":[");
    buffer_append(out, failed.data, failed.len);
    buffer_append_text(out, "]}");
    pthread_cond_signal(&f->changed);
}

static void attributes(const struct fake_sqs *f, struct buffer *out)
{
    buffer_printf(out,
                  "{\"Attributes\":{\"VisibilityTimeout\":\"%llu\",\"CreatedTimestamp\":\"1700000000\","
                  "\"MessageRetentionPeriod\":\"345600\",\"ApproximateNumberOfMessages\":\"%zu\"}}",
                  (unsigned long long)(f->visibility_ns / CLOCK_S), f->left - f->in_flight);
}

/* Whether the request fails by a fault; the answer says so then. */
static bool fails(struct fake_sqs *f, const char *operation, struct fake_answer *answer)
{
    const char *code = NULL;
    answer->status = 400;
    if (f->faults.refused_code) {
        answer->status = 403;
        code = f->faults.refused_code;
    } else if (f->faults.gone) {
        code = "com.amazonaws.sqs#QueueDoesNotExist";
    } else if (f->faults.refuse_attributes && !strcmp(operation, "GetQueueAttributes")) {
        answer->status = 403;
        code = "AccessDeniedException";
    } else if (f->faults.throttle) {
        f->faults.throttle--;
        code = "ThrottlingException";
    } else if (f->faults.unavailable) {
        f->faults.unavailable--;
        answer->status = 503;
        code = "ServiceUnavailable";
    }
    if (!code) {
        answer->status = 200;
        return false;
    }
    buffer_printf(&answer->body, "{\"__type\":\"%s\",\"message\":\"on demand\"}", code);
    return true;
}

static bool carry_out(struct fake_sqs *f, const struct fake_request *r, const char *operation,
                      struct fake_answer *answer)
{
    struct json_value body;
    if (json_scan(r->body, r->len, &body, NULL) < 0 || body.type != JSON_OBJECT) {
        answer->status = 400;
        return true;
    }
    if (!strcmp(operation, "ReceiveMessage"))
        return receive(f, r, &body, &answer->body);
    if (!strcmp(operation, "DeleteMessageBatch")) {
        f->counts.deletes++;
        batch(f, &body, delete_entry, &answer->body);
    } else if (!strcmp(operation, "ChangeMessageVisibilityBatch")) {
        f->counts.extends++;
        batch(f, &body, change_entry, &answer->body);
    } else if (!strcmp(operation, "SendMessageBatch")) {
        f->counts.sends++;
        batch(f, &body, send_entry, &answer->body);
    } else if (!strcmp(operation, "GetQueueAttributes")) {
        attributes(f, &answer->body);
    } else {
        buffer_append_text(&answer->body, "{\"QueueUrl\":\"http://fake/1/queue\"}");
    }
    return true;
}

/* Puts a request off that has not been under way for long enough. */
static bool delay(struct fake_sqs *f, const struct fake_request *r)
{
    uint64_t until_ns = r->since_ns + f->latency_ns;
    if (!f->latency_ns || f->stopping || clock_now_ns() >= until_ns || f->n_late == LATE_MOST)
        return false;
    f->late[f->n_late++] = (struct waiting){r->connection, until_ns};
    pthread_cond_signal(&f->changed);
    return true;
}

static void note_key(struct fake_sqs *f, const struct fake_request *r)
{
    static const char mark[] = "Credential=AKID";
    const char *authorization = fake_http_header(r, "Authorization");
    const char *token = fake_http_header(r, "X-Amz-Security-Token");
    const char *at = authorization ? strstr(authorization, mark) : NULL;
    f->key = at ? (unsigned)strtoul(at + sizeof mark - 1, NULL, 10) : 0;
    snprintf(f->token, sizeof f->token, "%s", token ? token : "");
}

static bool serve(void *data, const struct fake_request *r, struct fake_answer *answer)
{
    struct fake_sqs *f = data;
    const char *target = fake_http_header(r, "X-Amz-Target");
    const char *operation = target && !strncmp(target, "AmazonSQS.", 10) ? target + 10 : "";
    pthread_mutex_lock(&f->lock);
    note_key(f, r);
    bool answered = !delay(f, r) && (fails(f, operation, answer) || carry_out(f, r, operation, answer));
    if (answered && f->faults.lose_answers && answer->status == 200) {
        f->faults.lose_answers--;
        answer->status = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return answered;
}

/* --- time --- */

/* Lets requests on whose latency is over; returns when the next one's is. */
static uint64_t resume_late(struct fake_sqs *f, uint64_t now)
{
    size_t n = 0;
    while (n < f->n_late && (f->stopping || f->late[n].until_ns <= now))
        fake_http_resume(f->late[n++].connection);
    f->n_late -= n;
    memmove(f->late, f->late + n, f->n_late * sizeof f->late[0]);
    return f->n_late ? f->late[0].until_ns : UINT64_MAX;
}

/* Answers long polls whose time is over, and looks for messages whose is. */
static void *tick(void *data)
{
    struct fake_sqs *f = data;
    uint64_t looked = 0;
    pthread_mutex_lock(&f->lock);
    while (!f->stopping || f->n_waiting || f->n_late) {
        uint64_t now = clock_now_ns();
        uint64_t next = resume_late(f, now);
        if (f->n_waiting && (f->stopping || now >= looked + TICK / 2)) {
            looked = now;
            expire(f, now);
        }
        while (f->n_waiting && (f->stopping || f->waiting[0].until_ns <= now))
            wake_one(f);
        uint64_t delay_ns = next > now + TICK ? TICK : next - now;
        uint64_t at = clock_unix_ns() + delay_ns;
        struct timespec until = {.tv_sec = (time_t)(at / CLOCK_S), .tv_nsec = (long)(at % CLOCK_S)};
        pthread_cond_timedwait(&f->changed, &f->lock, &until);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* --- life --- */

struct fake_sqs *fake_sqs_start(bool fifo, unsigned visibility_s)
{
    struct fake_sqs *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->fifo = fifo;
    f->visibility_ns = visibility_s * CLOCK_S;
    f->first = f->last = NONE;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->http = fake_http_start(serve, f);
    if (!f->http || pthread_create(&f->ticker, NULL, tick, f)) {
        fake_http_stop(f->http);
        free(f);
        return NULL;
    }
    return f;
}

void fake_sqs_stop(struct fake_sqs *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->ticker, NULL);
    fake_http_stop(f->http);
    for (size_t i = 0; i < f->n; i++)
        free(f->messages[i].body);
    for (size_t i = 0; i < f->n_sent; i++)
        free(f->sent[i]);
    free(f->messages);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int fake_sqs_port(const struct fake_sqs *f)
{
    return fake_http_port(f->http);
}

void fake_sqs_set_latency(struct fake_sqs *f, uint64_t latency_ns)
{
    pthread_mutex_lock(&f->lock);
    f->latency_ns = latency_ns;
    pthread_mutex_unlock(&f->lock);
}

void fake_sqs_put(struct fake_sqs *f, const char *body, size_t len, const char *group)
{
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_json(&text, body, len);
    pthread_mutex_lock(&f->lock);
    if (f->n == f->cap) {
        f->cap = f->cap ? f->cap * 2 : 1024;
        f->messages = realloc(f->messages, f->cap * sizeof *f->messages);
        if (!f->messages)
            abort();
    }
    f->messages[f->n] = (struct message){.body = strdup(buffer_text(&text)), .group = group_number(group)};
    if (!f->messages[f->n].body)
        abort();
    f->left++;
    make_ready(f, (uint32_t)f->n++);
    wake_one(f);
    pthread_mutex_unlock(&f->lock);
}

void fake_sqs_set(struct fake_sqs *f, const struct fake_sqs_faults *faults)
{
    pthread_mutex_lock(&f->lock);
    f->faults = *faults;
    while (f->n_waiting)
        wake_one(f); /* long polls do not hide it */
    pthread_mutex_unlock(&f->lock);
}

struct fake_sqs_counts fake_sqs_counts(struct fake_sqs *f)
{
    pthread_mutex_lock(&f->lock);
    struct fake_sqs_counts counts = f->counts;
    pthread_mutex_unlock(&f->lock);
    return counts;
}

unsigned fake_sqs_key(struct fake_sqs *f, const char *session_token)
{
    pthread_mutex_lock(&f->lock);
    unsigned key = strcmp(f->token, session_token) ? 0 : f->key;
    pthread_mutex_unlock(&f->lock);
    return key;
}

size_t fake_sqs_left(struct fake_sqs *f)
{
    pthread_mutex_lock(&f->lock);
    size_t left = f->left;
    pthread_mutex_unlock(&f->lock);
    return left;
}

size_t fake_sqs_in_flight(struct fake_sqs *f)
{
    pthread_mutex_lock(&f->lock);
    size_t n = f->in_flight;
    pthread_mutex_unlock(&f->lock);
    return n;
}

void fake_sqs_expire(struct fake_sqs *f)
{
    pthread_mutex_lock(&f->lock);
    expire(f, UINT64_MAX);
    pthread_mutex_unlock(&f->lock);
}

const char *fake_sqs_sent(struct fake_sqs *f, size_t n)
{
    pthread_mutex_lock(&f->lock);
    const char *text = n < f->n_sent ? f->sent[n] : NULL;
    pthread_mutex_unlock(&f->lock);
    return text;
}
