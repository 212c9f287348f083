/* What a class of event sources plugs into the conformance test (source_conformance.h): its broker, and what
 * can be expected of it. docs/adding-a-source.md shows how one is written. Functions that return int: 0, or
 * -1 with the reason on standard error. They never use cmocka's assertions.
 *
 * The workflow reaches the broker at 127.0.0.1 through a proxy of the test's, which breaks the connection;
 * the driver itself talks to the broker directly. Thread: main, but for `publish`. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct buffer;

/* A CloudEvent to be published: its attributes, and all of it in the JSON event format (which is no longer
 * JSON when the data is meant to be invalid UTF-8). A driver uses whichever suits its class. */
struct source_event {
    const char *id;
    const char *source;
    const char *type;
    const char *subject;
    const char *key;  /* triggerflowkey; NULL: none */
    const char *data; /* JSON text, NUL-terminated */
    size_t data_len;
    const char *body;
    size_t body_len;
};

/* Where one case's events go. */
struct source_queue {
    char name[48];   /* of the queue, topic or stream: [a-z0-9-], another one for every case */
    int port;        /* of the proxy */
    const char *api; /* under_supervisor: the socket of the supervisor's trigger API; "" otherwise */
};

struct source_driver {
    const char *name; /* "redis": [a-z0-9-], part of the queues' names */

    /* What holds for the class. */
    bool ordered;          /* events are delivered first in the order in which they were published */
    bool deduplicates;     /* one that is published again (same source and id) is not counted again */
    bool unsure_twins;     /* two messages in which nothing differs cannot always be told from one that comes
                            * again: the long case has none */
    bool under_supervisor; /* events come through the supervisor, which then runs the worker and is the only
                            * broker: no proxy, no server to be killed */
    bool local;            /* there is no connection that could break: no proxy */
    bool refuses;          /* who publishes something invalid is told, and it does not come in */
    size_t data_max;       /* largest data of an event, if below 1 MiB; 0: that */
    unsigned percent;      /* of the events of the short cases, for a broker that is slow; 0: 100 */
    const char *const *crash_points; /* of the class's own (worker/crash.h), NULL-terminated; NULL: none */
    unsigned events;                 /* of the long case: 100,000 where the broker takes that in some 10 s */

    /* Once per program. `start` makes the broker and says where the proxy finds it; proxy_port is for brokers
     * that tell their clients where to connect to. 0; 1 when there is none to be had here, with "skipped:
     * why" printed; -1. `stop` also comes after a failed start. */
    int (*start)(int proxy_port, int *ret_port);
    void (*stop)(void);

    /* Makes the queue, empty. NULL: nothing to do. */
    int (*fresh)(const struct source_queue *queue);
    /* Appends the event source's class and parameters: "class":"...","parameters":{...}. Its connections must
     * notice a dead peer within some seconds (heartbeats), if they can. */
    void (*document)(const struct source_queue *queue, struct buffer *out);
    /* Publishes n events in this order, and returns once the broker has all of them and would keep them when
     * killed. Thread: any, one at a time; meanwhile nothing else of the driver is called but `abandoned`. */
    int (*publish)(const struct source_queue *queue, const struct source_event *events, size_t n);
    /* Publishes something that is no CloudEvent at all. NULL: `refuses`. */
    int (*publish_undecodable)(const struct source_queue *queue);

    /* kill -9, and a start with what it had stored, on the same port. NULL: cannot be. */
    int (*server_kill)(void);
    int (*server_start)(void);

    /* How many messages the broker still holds that a worker is to get or has not acknowledged; -1: not known
     * now. NULL: this broker does not know acknowledgements. */
    long long (*unacknowledged)(const struct source_queue *queue);
    /* Whether the broker has given up a worker that has been stopped (SIGSTOP): closed its connection, or
     * handed its messages back. NULL: it never does. */
    bool (*abandoned)(const struct source_queue *queue);
};
