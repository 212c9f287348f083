/* The parameters of a RabbitMQEventSource, for reading from it and publishing to it.
 *
 *     {"amqp_url","queue"} as in the original client, and, all optional: "tls_ca", "tls_cert", "tls_key"
 * (files), "tls_verify" (bool, default true: the server's certificate and name must be right), "prefetch"
 * (default 1000: messages that may be handed out and not acknowledged).
 *
 * amqp_url is amqp[s]://[user[:password]@][host][:port][/vhost][?heartbeat=SECONDS] (the AMQP URI scheme of
 * RabbitMQ's documentation, as pika reads it: without a virtual host, or with an empty one, it is /; what a
 * part contains of special characters is percent-encoded). The other query parameters that pika knows are
 * accepted and have no effect. */
#pragma once

#include <stdbool.h>

struct error;
struct json_value;

struct rabbitmq_parameters {
    char *user, *password, *host, *vhost, *queue, *tls_ca, *tls_cert, *tls_key; /* owned; never NULL */
    int port;
    int prefetch;
    int heartbeat; /* seconds; 0: none; -1: as we like it */
    bool tls;
    bool tls_verify;
};

/* The names of all of them, NULL-terminated. */
extern const char *const rabbitmq_parameters_known[];

/* Errors: ERROR_INVALID naming the parameter and its value, but never the URL, which holds the password. */
int rabbitmq_parameters_read(const struct json_value *json, struct rabbitmq_parameters *ret_parameters,
                             struct error *err);
void rabbitmq_parameters_done(struct rabbitmq_parameters *parameters);
