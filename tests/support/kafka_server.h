/* A private Apache Kafka broker (KRaft, one node) for tests, on free loopback ports in a temporary folder,
 * and what tests do with topics. It dies with the test. All but _available: 0, or -1 with the reason on
 * standard error. Thread: one at a time; start it from the test's main thread.
 *
 * Listeners: plain; TLS; SASL over TLS, and over nothing, with the mechanisms PLAIN, SCRAM-SHA-256 and
 * SCRAM-SHA-512 for the user "alice" with the password "secret"; and a plain one that names a proxy's port to
 * its clients. The certificate is ca.pem in the folder. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <librdkafka/rdkafka.h>

enum { KAFKA_PLAIN, KAFKA_TLS, KAFKA_SASL_TLS, KAFKA_SASL, KAFKA_PROXIED, KAFKA_CONTROLLER, KAFKA_LISTENERS };

struct kafka_server {
    pid_t pid; /* 0: not running */
    int port[KAFKA_LISTENERS];
    char dir[64];
    char brokers[128]; /* of the plain listener, as host:port */
    int proxy_port;
    rd_kafka_t *admin;  /* a producer, made when needed */
    rd_kafka_t *member; /* of the group asked for last */
    char group[64];
};

/* Whether the tests can have one; else *ret_why says why not. */
bool kafka_server_available(const char **ret_why);

/* proxy_port: that clients of KAFKA_PROXIED are to connect to; 0: none. */
int kafka_server_run(struct kafka_server *server, int proxy_port);
void kafka_server_stop(struct kafka_server *server);   /* SIGTERM, and waits */
void kafka_server_kill(struct kafka_server *server);   /* SIGKILL, and waits */
int kafka_server_restart(struct kafka_server *server); /* stops if it runs; the same ports and folder */
void kafka_server_freeze(struct kafka_server *server, bool frozen); /* SIGSTOP, SIGCONT */
void kafka_server_done(
    struct kafka_server *server); /* kills, removes the folder; also after a failed start */

/* --- topics --- */

/* settings: "name=value", NULL-terminated; NULL: none. */
int kafka_server_create(struct kafka_server *server, const char *topic, int partitions,
                        const char *const *settings);
int kafka_server_delete(struct kafka_server *server, const char *topic);
int kafka_server_set_partitions(struct kafka_server *server, const char *topic, int partitions);
/* Removes the records before the offset. */
int kafka_server_trim(struct kafka_server *server, const char *topic, int partition, int64_t offset);
/* How many partitions; 0: there is no such topic. */
int kafka_server_partitions(struct kafka_server *server, const char *topic);
/* The first offset and the end of a partition. */
int kafka_server_bounds(struct kafka_server *server, const char *topic, int partition, int64_t *ret_low,
                        int64_t *ret_high);
/* The offset that a group has committed; -1: none. */
int64_t kafka_server_committed(struct kafka_server *server, const char *group, const char *topic,
                               int partition);

/* Commits it, as another program's consumer. */
int kafka_server_commit(struct kafka_server *server, const char *group, const char *topic, int partition,
                        int64_t offset);

struct kafka_record {
    int partition; /* -1: by the key */
    const char *key;
    const char *value;       /* NULL: none */
    size_t len;              /* of value; 0: it is a text */
    const char *headers[24]; /* name, value, …, NULL */
};
/* Publishes them in order, and waits until all are acknowledged. */
int kafka_server_publish(struct kafka_server *server, const char *topic, const struct kafka_record *records,
                         size_t n);
/* A producer of the test's own, acks=all; transactional when id is given. Destroyed by the test. */
rd_kafka_t *kafka_server_producer(struct kafka_server *server, const char *transactional_id);

/* Reads all that is in the topic now, partition by partition, and hands over each record. */
int kafka_server_read(struct kafka_server *server, const char *topic,
                      void (*see)(void *data, const rd_kafka_message_t *message), void *data);
