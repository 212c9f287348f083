/* Shared by function_server.c (connections) and function_contract.c (functions) only. Thread: the server's,
 * with its lock. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <hiredis/hiredis.h>

#include "common/buffer.h"
#include "common/hash.h"
#include "common/json.h"
#include "tests/support/function_server.h"

#define FUNCTION_NAME_MAX 200
#define FUNCTION_SINKS 8

struct loop;

/* Starts of one (function, task, key). */
struct function_start {
    struct function_start *next; /* in the order of first starts */
    unsigned count;
    uint64_t first_ns;
    uint64_t last_ns;
    const char *function, *task, *key;
    size_t name_len;
    char name[]; /* function NUL task NUL key */
};

struct function_rule {
    struct function_rule *next;
    struct function_behaviour behaviour;
    char function[FUNCTION_NAME_MAX];
};

struct function_sink {
    int port;
    redisContext *redis;
};

struct function_server {
    struct loop *loop;
    int listener;
    unsigned port;
    pthread_t thread;
    _Atomic bool stopping;
    pthread_mutex_t lock; /* all below; the thread gives it up while it waits */
    struct function_connection *connections;
    struct function_later *laters;
    struct function_rule *rules;
    char basic[256], bearer[256], aws_id[128], aws_secret[128], aws_token[512], region[64], service[64];
    int sink_port;
    char sink_stream[128];
    function_compute compute;
    void *compute_data;
    struct hash_table starts;
    struct function_start *first, **end;
    struct function_sink sinks[FUNCTION_SINKS];
    struct buffer last;
    uint64_t requests, refused, published;
    unsigned at_once, most_at_once, n_connections;
};

/* A whole request, in place. */
struct function_request {
    char method[16];
    char path[1024];     /* with the query */
    const char *headers; /* lines, CR LF */
    size_t headers_len;
    const char *body;
    size_t body_len;
};

enum function_contract { CONTRACT_ANY, CONTRACT_OPENWHISK, CONTRACT_LAMBDA };

/* What is to happen for a request. */
struct function_verdict {
    unsigned status;
    struct function_behaviour behaviour;
    struct buffer answer; /* body */
    struct buffer event;  /* the termination event's fields: name NUL value NUL ...; empty: none */
    int sink_port;
    char sink_stream[128];
};

/* A header's value, NUL-terminated in to ("" without it). */
const char *function_header(const struct function_request *request, const char *name, char *to, size_t size);
/* Judges a request and counts the start. */
void function_judge(struct function_server *server, const struct function_request *request,
                    struct function_verdict *ret_verdict);
void function_publish(struct function_server *server, struct function_verdict *verdict);
void function_verdict_done(struct function_verdict *verdict);
