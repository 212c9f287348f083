/* See ingest.h. */
#include "supervisor/ingest_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "supervisor/http.h"
#include "supervisor/status.h"

#define EVENTS_MAX 64
#define GRACE_NS (2 * CLOCK_S) /* an event source that was just added may be about to open */

static const uint64_t patience_ns[WAITS] = {INGEST_START_NS, GRACE_NS, INGEST_ANSWER_NS};
static const unsigned refusals[] = {400, 404, 409, 413, 415, 429, 500, 503, 507};

/* ---- Answers. Without the lock. ---- */

static void add(_Atomic uint64_t *count, uint64_t n)
{
    atomic_fetch_add_explicit(count, n, memory_order_relaxed);
}

void ingest_refuse(struct ingest *ingest, struct http_request *request, unsigned status, long index,
                   const char *text)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (refusals[i] == status)
            add(&ingest->refused[i], 1);
    buffer_reset(&request->answer, SIZE_MAX);
    buffer_append_text(&request->answer, "{\"error\":");
    status_append_text(&request->answer, text);
    if (index >= 0) {
        buffer_append_text(&request->answer, ",\"index\":");
        buffer_append_u64(&request->answer, (uint64_t)index);
    }
    buffer_append_char(&request->answer, '}');
    if (status == 429 || status == 503)
        request->retry_after = INGEST_RETRY_SECONDS;
    http_answer(request, status);
}

static void accept_events(struct ingest *ingest, struct http_request *request, uint32_t n,
                          uint32_t duplicates)
{
    add(&ingest->accepted, n);
    add(&ingest->duplicates, duplicates);
    buffer_reset(&request->answer, SIZE_MAX);
    buffer_append_text(&request->answer, "{\"accepted\":");
    buffer_append_u64(&request->answer, n);
    buffer_append_text(&request->answer, ",\"duplicates\":");
    buffer_append_u64(&request->answer, duplicates);
    buffer_append_char(&request->answer, '}');
    http_answer(request, 202);
}

static const char *reason_of(unsigned status)
{
    switch (status) {
    case 400:
        return "the worker refuses the events";
    case 409:
        return "the workspace has no HTTPEventSource";
    case 413:
        return "the events are too large";
    case 429:
        return "too many events wait";
    case 507:
        return "the storage is full";
    default:
        return "the worker died or could not log the events: whether they were taken is not known";
    }
}

/* text: NULL for the usual one. */
static void deliver(struct ingest *ingest, struct items *done, const char *text)
{
    struct item *item;
    while ((item = TAILQ_FIRST(done)) != NULL) {
        TAILQ_REMOVE(done, item, link);
        if (item->request) {
            atomic_fetch_sub_explicit(&ingest->under_way, 1, memory_order_relaxed);
            if (item->status == 202)
                accept_events(ingest, item->request, item->n_events, item->duplicates);
            else
                ingest_refuse(ingest, item->request, item->status, -1, text ? text : reason_of(item->status));
        }
        free(item);
    }
}

/* ---- Lives ---- */

int ingest_open(struct ingest *ingest, const char *workspace, struct arena *arena, int *ret_ingest_fd,
                int *ret_durable_fd, struct error *err)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    int r = -1;
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = channel_get(ingest, workspace);
    if (!channel) {
        error_set(err, ERROR_MEMORY, "workspace %s: out of memory", workspace);
    } else {
        channel_end(channel, &done);
        r = channel_begin(channel, arena, err);
        *ret_ingest_fd = channel->ingest_fd;
        *ret_durable_fd = channel->durable_fd;
        channel_release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
    return r;
}

void ingest_close(struct ingest *ingest, const char *workspace)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = channel_find(ingest, workspace);
    if (channel) {
        channel_end(channel, &done);
        channel_wake(channel);
        channel_release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

/* The worker has looked while the source may have been stored: it gets what a request now would get. */
static void wait_for_source(struct ingest *ingest, struct channel *channel)
{
    struct item *item;
    TAILQ_FOREACH(item, &channel->waiting, link)
    {
        TAILQ_REMOVE(&ingest->by_age[item->wait], item, by_age);
        item_wait(ingest, item, WAIT_SOURCE);
    }
}

void ingest_settle(struct ingest *ingest, const char *workspace, bool has_source)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = channel_find(ingest, workspace);
    if (channel && channel->arena) {
        bool first = !channel->settled;
        channel->settled = true;
        channel->has_source = has_source;
        channel_flush(channel, &done);
        if (first && !has_source && channel_state(channel) == ARENA_INGEST_CLOSED)
            wait_for_source(ingest, channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

void ingest_fail(struct ingest *ingest, const char *workspace, unsigned status, const char *text)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = channel_find(ingest, workspace);
    if (channel) {
        item_decide_all(&channel->waiting, status, &done);
        channel_release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, text);
}

/* ---- Submitting ---- */

static struct item *item_new(struct channel *channel, struct http_request *request, uint32_t n_events,
                             size_t n_bytes)
{
    struct item *item = malloc(sizeof *item + n_bytes);
    if (!item)
        return NULL;
    *item = (struct item){.channel = channel, .request = request, .n_events = n_events, .n_bytes = n_bytes};
    return item;
}

/* Into the ring: 0, or a status. */
static unsigned submit_open(struct channel *channel, struct http_request *request, const void *record,
                            size_t n_bytes, uint32_t n_events, struct items *done)
{
    channel_harvest(channel, done);
    if (channel->broken)
        return 503;
    if (channel_state(channel) == ARENA_INGEST_NO_SPACE && !TAILQ_EMPTY(&channel->pending))
        return 507; /* the pending one finds out whether there is room again */
    struct item *item = item_new(channel, request, n_events, 0);
    if (!item)
        return 500;
    if (!channel_put(channel, item, record, n_bytes)) {
        free(item);
        return 429;
    }
    TAILQ_INSERT_TAIL(&channel->pending, item, link);
    item_wait(channel->ingest, item, WAIT_ANSWER);
    add(&channel->ingest->under_way, 1);
    channel_tell(channel);
    return 0;
}

static unsigned submit_waiting(struct channel *channel, struct http_request *request, const void *record,
                               size_t n_bytes, uint32_t n_events)
{
    struct ingest *ingest = channel->ingest;
    if (ingest->n_waiting >= INGEST_WAITING_MAX || ingest->waiting_bytes + n_bytes > INGEST_WAITING_BYTES)
        return 429;
    struct item *item = item_new(channel, request, n_events, n_bytes);
    if (!item)
        return 500;
    memcpy(item->copy, record, n_bytes);
    ingest->n_waiting++;
    ingest->waiting_bytes += n_bytes;
    TAILQ_INSERT_TAIL(&channel->waiting, item, link);
    add(&ingest->under_way, 1);
    item_wait(ingest, item, channel->settled && !channel->has_source ? WAIT_SOURCE : WAIT_START);
    channel_wake(channel);
    return 0;
}

void ingest_submit(struct ingest *ingest, struct http_request *request, const char *workspace,
                   const void *record, size_t n_bytes, uint32_t n_events)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    unsigned status = 503;
    pthread_mutex_lock(&ingest->lock);
    struct channel *channel = ingest->aborted ? NULL : channel_get(ingest, workspace);
    if (channel) {
        if (channel_state(channel) == ARENA_INGEST_CLOSED)
            status = submit_waiting(channel, request, record, n_bytes, n_events);
        else if (n_events == 0)
            status = 202;
        else
            status = submit_open(channel, request, record, n_bytes, n_events, &done);
        channel_release(channel);
    }
    pthread_mutex_unlock(&ingest->lock);
    if (status == 202)
        accept_events(ingest, request, 0, 0);
    else if (status != 0)
        ingest_refuse(ingest, request, status, -1, status == 500 ? "out of memory" : reason_of(status));
    deliver(ingest, &done, NULL);
}

/* ---- The thread ---- */

static void collect_garbage(struct ingest *ingest)
{
    while (ingest->garbage) {
        struct channel *channel = ingest->garbage;
        ingest->garbage = channel->next_garbage;
        free(channel->name);
        free(channel);
    }
}

static void on_durable(struct ingest *ingest, struct channel *channel)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    uint64_t count;
    pthread_mutex_lock(&ingest->lock);
    if (channel->arena && (read(channel->durable_fd, &count, sizeof count) > 0 || errno == EAGAIN)) {
        channel_harvest(channel, &done);
        channel_flush(channel, &done);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, NULL);
}

/* Answers those that have waited too long. A record stays in the ring: its item stays, too, without its
 * request. Returns when to look again. */
static uint64_t expire(struct ingest *ingest, uint64_t now_ns)
{
    struct items done[WAITS];
    struct item *item;
    uint64_t next = now_ns + CLOCK_S;
    pthread_mutex_lock(&ingest->lock);
    for (unsigned i = 0; i < WAITS; i++) {
        TAILQ_INIT(&done[i]);
        while ((item = TAILQ_FIRST(&ingest->by_age[i])) != NULL &&
               item->since_ns + patience_ns[i] <= now_ns) {
            struct channel *channel = item->channel;
            if (i != WAIT_ANSWER) {
                item_decide(item, i == WAIT_SOURCE ? 409 : 503, &done[i]);
                channel_release(channel);
                continue;
            }
            struct item *told = item->request ? item_new(channel, item->request, item->n_events, 0) : NULL;
            if (told) {
                told->status = 503;
                TAILQ_INSERT_TAIL(&done[i], told, link);
                item->request = NULL;
            }
            TAILQ_REMOVE(&ingest->by_age[i], item, by_age);
            item_wait(ingest, item, WAIT_ANSWER);
        }
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done[WAIT_START], "the workflow did not start in time");
    deliver(ingest, &done[WAIT_SOURCE], NULL);
    deliver(ingest, &done[WAIT_ANSWER], NULL);
    return next;
}

static void *run(void *data)
{
    struct ingest *ingest = data;
    struct epoll_event events[EVENTS_MAX];
    uint64_t look_ns = 0;
    for (;;) {
        uint64_t now = clock_coarse_ns();
        if (now >= look_ns)
            look_ns = expire(ingest, now);
        pthread_mutex_lock(&ingest->lock);
        collect_garbage(ingest);
        bool stopping = ingest->stopping;
        pthread_mutex_unlock(&ingest->lock);
        if (stopping)
            return NULL;
        int n = epoll_wait(ingest->epoll_fd, events, EVENTS_MAX, 1000);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr)
                on_durable(ingest, events[i].data.ptr);
    }
}

static int start(struct ingest *ingest, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    ingest->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ingest->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ingest->epoll_fd < 0 || ingest->stop_fd < 0 ||
        epoll_ctl(ingest->epoll_fd, EPOLL_CTL_ADD, ingest->stop_fd, &event) < 0)
        return error_set_errno(err, errno, "ingest: epoll");
    int e = pthread_create(&ingest->thread, NULL, run, ingest);
    if (e != 0)
        return error_set_errno(err, e, "ingest: thread");
    pthread_setname_np(ingest->thread, "ingest");
    ingest->started = true;
    return 0;
}

int ingest_new(const struct ingest_options *options, struct ingest **ret_ingest, struct error *err)
{
    struct ingest *ingest = calloc(1, sizeof *ingest);
    if (!ingest)
        return error_set(err, ERROR_MEMORY, "ingest: out of memory");
    ingest->options = *options;
    ingest->epoll_fd = ingest->stop_fd = -1;
    pthread_mutex_init(&ingest->lock, NULL);
    hash_init(&ingest->channels);
    for (unsigned i = 0; i < WAITS; i++)
        TAILQ_INIT(&ingest->by_age[i]);
    if (start(ingest, err) < 0) {
        ingest_free(ingest);
        return -1;
    }
    *ret_ingest = ingest;
    return 0;
}

void ingest_abort(struct ingest *ingest)
{
    struct items done = TAILQ_HEAD_INITIALIZER(done);
    if (!ingest)
        return;
    pthread_mutex_lock(&ingest->lock);
    ingest->aborted = true;
    size_t cursor = 0;
    struct hash_entry *entry;
    while ((entry = hash_next(&ingest->channels, &cursor)) != NULL) {
        struct channel *channel = entry->value;
        channel_harvest(channel, &done);
        item_decide_all(&channel->pending, 503, &done);
        item_decide_all(&channel->waiting, 503, &done);
    }
    pthread_mutex_unlock(&ingest->lock);
    deliver(ingest, &done, "the supervisor is stopping");
}

void ingest_free(struct ingest *ingest)
{
    if (!ingest)
        return;
    if (ingest->started) {
        uint64_t one = 1;
        pthread_mutex_lock(&ingest->lock);
        ingest->stopping = true;
        pthread_mutex_unlock(&ingest->lock);
        while (write(ingest->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(ingest->thread, NULL);
    }
    struct hash_entry *entry;
    size_t cursor = 0;
    while ((entry = hash_next(&ingest->channels, &cursor)) != NULL) {
        struct channel *channel = entry->value;
        channel->next_garbage = ingest->garbage;
        ingest->garbage = channel;
    }
    collect_garbage(ingest);
    hash_done(&ingest->channels);
    if (ingest->epoll_fd >= 0)
        close(ingest->epoll_fd);
    if (ingest->stop_fd >= 0)
        close(ingest->stop_fd);
    pthread_mutex_destroy(&ingest->lock);
    free(ingest);
}

void ingest_count(struct ingest *ingest, struct ingest_counts *ret_counts)
{
    *ret_counts =
        (struct ingest_counts){.accepted = atomic_load_explicit(&ingest->accepted, memory_order_relaxed),
                               .duplicates = atomic_load_explicit(&ingest->duplicates, memory_order_relaxed),
                               .waiting = atomic_load_explicit(&ingest->under_way, memory_order_relaxed)};
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        ret_counts->refused[i].status = refusals[i];
        ret_counts->refused[i].requests = atomic_load_explicit(&ingest->refused[i], memory_order_relaxed);
    }
}
