/* Watching a workspace in Redis for changes, by client-side caching of chosen keys
 * (https://redis.io/docs/manual/client-side-caching/, OPTIN): the server remembers the keys of the one
 * command that follows CLIENT CACHING YES, existing or not, until the first of anybody's changes to each, and
 * tells of that on the second connection, as RESP2 needs. That costs a write to any other key nothing;
 * broadcast mode makes every write walk all prefixes that anybody watches. What our other commands and the
 * scripts read is not remembered.
 *
 * The server forgets all of it when the first connection closes, which a server with `timeout` does to idle
 * ones: so the caller's descriptor is an epoll that tells of that, too. Thread: one at a
 * time. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "common/storage/redis_internal.h"

#define INVALIDATE "__redis__:invalidate"

static int watch_call(struct redis_storage *s, struct redis *redis, int argc, const char *const *argv,
                      redisReply **ret_reply, struct error *err)
{
    if (redis_call(redis, CALL_NS, s->head.heartbeat, s->head.heartbeat_data, argc, argv, NULL, ret_reply,
                   err) < 0)
        return redis_broken(redis) ? -1 : error_prefix(err, "%s: %s", redis_peer(redis), argv[0]);
    return 0;
}

static void watch_close(struct redis_storage *s)
{
    redis_free(s->watch);
    s->watch = NULL;
    s->tracking = false;
}

/* The connection's end is always told of. */
static int watch_poll(struct redis_storage *s, const struct redis *redis, uint32_t events, struct error *err)
{
    if (s->watch_fd < 0)
        s->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->watch_fd < 0)
        return error_set_errno(err, errno, "watching the storage");
    struct epoll_event event = {.events = events | EPOLLRDHUP};
    if (epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, redis_fd(redis), &event) < 0 && errno != EEXIST)
        return error_set_errno(err, errno, "watching the storage");
    return 0;
}

/* Opens the second connection, unless it is there and lives. What it still holds is older than what the
 * caller reads next. */
static int watch_open(struct redis_storage *s, struct error *err)
{
    REPLY_AUTO *id = NULL;
    REPLY_AUTO *subscribed = NULL;
    int rc = s->watch ? 0 : -1;
    while (rc == 0) {
        void *old = NULL;
        struct error ignored;
        rc = redis_receive(s->watch, &old, &ignored);
        if (rc == 0)
            freeReplyObject(old);
    }
    if (rc > 0)
        return 0;
    watch_close(s);
    if (redis_connect(&s->address, s->client_name, CONNECT_NS, -1, &s->watch, err) < 0 ||
        watch_call(s, s->watch, 2, (const char *[]){"CLIENT", "ID"}, &id, err) < 0 ||
        watch_call(s, s->watch, 2, (const char *[]){"SUBSCRIBE", INVALIDATE}, &subscribed, err) < 0)
        return -1;
    s->watch_id = id->integer;
    return watch_poll(s, s->watch, EPOLLIN, err);
}

static int watch_track(struct redis_storage *s, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    char id[24];
    if (s->tracking)
        return 0;
    snprintf(id, sizeof id, "%lld", s->watch_id);
    const char *const track[] = {"CLIENT", "TRACKING", "ON", "REDIRECT", id, "OPTIN"};
    if (redis_storage_call_connected(s, "CLIENT TRACKING", 6, track, NULL, &reply, err) < 0)
        return -1;
    s->tracking = true;
    return watch_poll(s, s->redis, 0, err);
}

/* HLEN, because it needs no permission that the rest does not. */
static int watch_arm(struct redis_storage *s, struct error *err)
{
    for (int i = 0; i < N_WATCHED; i++) {
        REPLY_AUTO *caching = NULL;
        REPLY_AUTO *len = NULL;
        if (redis_storage_call_connected(s, "CLIENT CACHING", 3, (const char *[]){"CLIENT", "CACHING", "YES"},
                                         NULL, &caching, err) < 0 ||
            redis_storage_call_connected(s, "HLEN", 2, (const char *[]){"HLEN", s->watched[i]}, NULL, &len,
                                         err) < 0)
            return -1;
    }
    return 0;
}

int redis_storage_watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    struct error own = {.code = ERROR_NONE};
    if (redis_storage_key(s->watched[WATCH_TRIGGERS], workspace, STORAGE_TRIGGERS, err) < 0 ||
        redis_storage_key(s->watched[WATCH_EVENT_SOURCES], workspace, STORAGE_EVENT_SOURCES, err) < 0)
        return -1;
    bool reached = redis_storage_connected(s, &own) == 0;
    if (reached && watch_open(s, &own) == 0 && watch_track(s, &own) == 0 && watch_arm(s, &own) == 0) {
        *ret_fd = s->watch_fd;
        return 0;
    }
    watch_close(s);
    if (reached && own.code == ERROR_REFUSED) /* older than Redis 6, or not permitted */
        return STORAGE_ABSENT;
    if (err)
        *err = own;
    return -1;
}

/* Whether one notification, ["message", channel, [keys] or nil (everything was flushed)], is of a watched
 * key. */
static bool watch_concerns(const struct redis_storage *s, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3)
        return false;
    const redisReply *keys = reply->element[2];
    if (keys->type != REDIS_REPLY_ARRAY)
        return keys->type == REDIS_REPLY_NIL;
    for (size_t k = 0; k < keys->elements; k++)
        for (int i = 0; i < N_WATCHED; i++)
            if (redis_is_text(keys->element[k]) && strcmp(keys->element[k]->str, s->watched[i]) == 0)
                return true;
    return false;
}

int redis_storage_watch_read(struct storage *storage, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    bool changed = false;
    if (!s->watch)
        return error_set(err, ERROR_UNAVAILABLE, "nothing is watched");
    redis_storage_drop_dead(s);
    for (;;) {
        void *reply = NULL;
        int rc = redis_receive(s->watch, &reply, err);
        if (rc < 0)
            return error_prefix(err, "watching %s", s->watched[WATCH_TRIGGERS]);
        if (rc > 0)
            return changed ? 0 : STORAGE_ABSENT;
        changed |= watch_concerns(s, reply);
        freeReplyObject(reply);
    }
}
