/* The parameters of a KafkaEventSource, for reading from it and publishing to it.
 *
 *     {"broker_list","topic","auth_mode","username","password"} as in the original client (broker_list is an
 * array of host:port, or one text with commas; auth_mode NONE, or SASL_PLAINTEXT, which means SASL PLAIN over
 * TLS), and, all optional: auth_mode PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, "tls" (bool; default: whether
 * auth_mode is another than NONE), "tls_ca", "tls_cert", "tls_key" (files), and "properties", an object of
 * librdkafka's own settings. Those that would break a promise, run code or name a file to run are refused.
 *
 * Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <librdkafka/rdkafka.h>

struct error;
struct json_value;

struct kafka_parameters {
    char *broker_list, *topic, *mechanism, *username, *password, *tls_ca, *tls_cert, *tls_key; /* owned; never
                                                                                                 NULL */
    bool tls;
    char **properties; /* name, value, name, value … */
    size_t n_properties;
};

/* The names of all of them, NULL-terminated. */
extern const char *const kafka_parameters_known[];

/* Also has librdkafka check the properties; it starts nothing for that. Errors: ERROR_INVALID naming the
 * parameter and its value (unless that may be a secret); ERROR_MEMORY. */
int kafka_parameters_read(const struct json_value *json, struct kafka_parameters *ret_parameters,
                          struct error *err);
void kafka_parameters_done(struct kafka_parameters *parameters);

/* A configuration for rd_kafka_new: what we need, and over it the properties. `group`: the consumer group
 * that offsets are committed to. Errors: ERROR_INVALID, ERROR_MEMORY. */
int kafka_parameters_consumer(const struct kafka_parameters *parameters, const char *client,
                              const char *group, rd_kafka_conf_t **ret_conf, struct error *err);
/* max_event: the largest message's bytes. */
int kafka_parameters_producer(const struct kafka_parameters *parameters, const char *client, size_t max_event,
                              rd_kafka_conf_t **ret_conf, struct error *err);
