/* A workspace in a test's redis-server: writing triggers, event sources and events, and looking at what a
 * worker has stored. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct redis_server;

struct workspace {
    struct redis_server *redis;
    char name[64];
    char creation[32];
};

/* An event to publish. NULL: the attribute is left out. */
struct publication {
    const char *id;
    const char *type;
    const char *subject;
    const char *data;
    const char *key; /* triggerflowkey */
};

/* Stores an empty workspace, after removing what an earlier one of this name has left. All of these: 0, or -1
 * with the reason on standard error. */
int workspace_create(struct workspace *workspace, struct redis_server *redis, const char *name);
/* As the original does it: the entry in the list and the workspace's keys. */
int workspace_delete(const struct workspace *workspace);

int workspace_put_trigger(const struct workspace *workspace, const char *id, const char *document);
/* A trigger from its parts: JSON objects, `activation` that of its only activation event. Its uuid is
 * "uuid-<id>". */
int workspace_trigger(const struct workspace *workspace, const char *id, const char *condition,
                      const char *action, const char *context, const char *activation, bool transient);
int workspace_delete_trigger(const struct workspace *workspace, const char *id);
/* A RedisEventSource that reads `stream` from the test's server; more: further parameters
 * (`,"consume":false`). */
int workspace_source(const struct workspace *workspace, const char *name, const char *stream,
                     const char *more);
int workspace_put_source(const struct workspace *workspace, const char *name, const char *document);
int workspace_delete_source(const struct workspace *workspace, const char *name);

/* Publishes events to a stream over the client of the server, in one go. -1: some may be lost. */
int workspace_publish(const struct workspace *workspace, const char *stream, const struct publication *events,
                      size_t n);
int workspace_publish_one(const struct workspace *workspace, const char *stream, const char *id,
                          const char *type, const char *subject, const char *data);

/* A field of one of its hashes ("triggers", "checkpoint", ...), or NULL (free). */
char *workspace_get(const struct workspace *workspace, const char *set, const char *field);
/* Fields of a hash, or -1. */
long long workspace_count(const struct workspace *workspace, const char *set);
long long workspace_stream_length(const struct workspace *workspace, const char *stream);
/* A member of a trigger's context as a number; -1 when there is none. */
long long workspace_context(const struct workspace *workspace, const char *trigger, const char *member);
/* How many dead letters have this reason. */
int workspace_dead_letters(const struct workspace *workspace, const char *reason);
/* Whether everything in the stream is processed and committed, and nothing internal or in the outbox is left.
 */
bool workspace_settled(const struct workspace *workspace, const char *source, const char *stream);
/* What is stored but the dead letters, shortened, to standard error. */
void workspace_dump(const struct workspace *workspace, const char *stream);
