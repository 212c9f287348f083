#include "worker/source/kafka_parameters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/parameter.h"

#define MAX_PROPERTIES 200

const char *const kafka_parameters_known[] = {"broker_list", "topic",      "auth_mode", "username",
                                              "password",    "tls",        "tls_ca",    "tls_cert",
                                              "tls_key",     "properties", NULL};

/* Properties that are not the user's to set, and why. */
static const char promise[] = "the worker's promises rest on it";
static const char by_parameter[] = "it has a parameter of its own";
static const char code[] = "it loads or runs code";
static const char internal_use[] = "it is set by programs only";

static const struct refused {
    const char *name;
    const char *why;
} refused[] = {
    {"acks", promise},
    {"allow.auto.create.topics", promise},
    {"auto.commit.enable", promise},
    {"auto.offset.reset", promise},
    {"enable.auto.commit", promise},
    {"enable.auto.offset.store", promise},
    {"enable.idempotence", promise},
    {"enable.gapless.guarantee", promise},
    {"enable.partition.eof", promise},
    {"group.id", promise},
    {"group.instance.id", promise},
    {"isolation.level", promise},
    {"max.in.flight", promise},
    {"max.in.flight.requests.per.connection", promise},
    {"message.send.max.retries", promise},
    {"offset.store.method", promise},
    {"offset.store.path", promise},
    {"offset.store.sync.interval.ms", promise},
    {"queuing.strategy", promise},
    {"request.required.acks", promise},
    {"retries", promise},
    {"transactional.id", promise},
    {"bootstrap.servers", by_parameter},
    {"metadata.broker.list", by_parameter},
    {"sasl.mechanism", by_parameter},
    {"sasl.mechanisms", by_parameter},
    {"sasl.password", by_parameter},
    {"sasl.username", by_parameter},
    {"security.protocol", by_parameter},
    {"ssl.ca.location", by_parameter},
    {"ssl.certificate.location", by_parameter},
    {"ssl.key.location", by_parameter},
    {"plugin.library.paths", code},
    {"sasl.kerberos.kinit.cmd", code},
    {"ssl.engine.location", code},
    {"ssl.engine.id", code},
    {"default_topic_conf", internal_use},
    {"interceptors", internal_use},
    {"opaque", internal_use},
    {"ssl_engine_callback_data", internal_use},
    {"ssl_ca", internal_use},
    {"ssl_certificate", internal_use},
    {"ssl_key", internal_use},
};

static const char *refusal(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (!strcasecmp(refused[i].name, name))
            return refused[i].why;
    if (!strncasecmp(name, "ut_", 3) || !strncasecmp(name, "test.", 5) ||
        (len > 3 && !strcasecmp(name + len - 3, "_cb")))
        return internal_use;
    return NULL;
}

/* Whether a property's value may not be shown. */
static bool is_secret(const char *name)
{
    static const char *const words[] = {
        "password", "secret", "token", "jaas", ".pem", "keytab", "sasl.oauthbearer.config"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasestr(name, words[i]))
            return true;
    return false;
}

/* --- reading --- */

static bool is_port(const char *text, size_t len)
{
    unsigned port = 0;
    for (size_t i = 0; i < len; i++) {
        if (i == 5 || text[i] < '0' || text[i] > '9')
            return false;
        port = port * 10 + (unsigned)(text[i] - '0');
    }
    return port > 0 && port <= 65535;
}

/* "host", "host:port", the host also as [IPv6 address]. librdkafka would take the low 16 bits of any number.
 */
static bool is_broker(const char *text, size_t len)
{
    const char *end = *text == '[' ? memchr(text, ']', len) : text - 1;
    const char *colon = end ? memchr(end + 1, ':', len - (size_t)(end + 1 - text)) : NULL;
    size_t host = colon ? (size_t)(colon - text) : len;
    if (!end || (end > text && end + 1 != text + host) || (colon && !is_port(colon + 1, len - host - 1)))
        return false;
    for (size_t i = 0; i < host; i++)
        if ((unsigned char)text[i] <= ' ' || strchr("/@\"\\", text[i]))
            return false;
    return host > 0;
}

/* Commas may stand between several, or behind one. */
static int append_broker(const struct json_value *value, struct buffer *list, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    char *rest = NULL, *one;
    if (value->type != JSON_STRING || !value->len || parameter_has_nul(value))
        return parameter_wrong("broker_list", value, "host:port", err);
    json_unescape(value, &text);
    buffer_append_char(&text, '\0');
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (one = strtok_r(text.data, ", ", &rest); one; one = strtok_r(NULL, ", ", &rest)) {
        if (!is_broker(one, strlen(one)))
            return error_set(err, ERROR_INVALID,
                             "parameter broker_list: \"%.*s\" is not host:port, with a port from 1 to 65535",
                             PARAMETER_SHOWN, one);
        if (list->len)
            buffer_append_char(list, ',');
        buffer_append_text(list, one);
    }
    return 0;
}

static int read_brokers(const struct json_value *json, char **ret_list, struct error *err)
{
    struct json_value value, name, element;
    struct json_iter iter;
    BUFFER_AUTO list = BUFFER_INIT;
    if (!json_member(json, "broker_list", &value) || value.type == JSON_NULL)
        return error_set(err, ERROR_INVALID, "parameter broker_list is missing");
    if (value.type == JSON_STRING) {
        if (append_broker(&value, &list, err) < 0)
            return -1;
    } else if (value.type != JSON_ARRAY) {
        return parameter_wrong("broker_list", &value, "an array of host:port", err);
    } else {
        json_iter_init(&iter, &value);
        while (json_next(&iter, &name, &element))
            if (append_broker(&element, &list, err) < 0)
                return -1;
    }
    if (!list.len)
        return error_set(err, ERROR_INVALID, "parameter broker_list is empty");
    *ret_list = list.failed ? NULL : strdup(buffer_text(&list));
    return *ret_list ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

/* Also whether TLS is the default. */
static int read_auth(const struct json_value *json, struct kafka_parameters *p, struct error *err)
{
    static const char *const modes[] = {"NONE", "SASL_PLAINTEXT", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"};
    static const char *const mechanisms[] = {"", "PLAIN", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"};
    char *mode = NULL;
    size_t i = 0;
    if (parameter_text(json, "auth_mode", "NONE", &mode, err) < 0)
        return -1;
    while (i < sizeof modes / sizeof modes[0] && strcmp(modes[i], mode) != 0)
        i++;
    free(mode);
    if (i == sizeof modes / sizeof modes[0]) {
        struct json_value value;
        json_member(json, "auth_mode", &value);
        return parameter_wrong("auth_mode", &value,
                               "NONE, SASL_PLAINTEXT, PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", err);
    }
    p->tls = i > 0;
    p->mechanism = strdup(mechanisms[i]);
    if (!p->mechanism)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (i > 0 && !p->username[0])
        return error_set(err, ERROR_INVALID, "parameter username is missing, with auth_mode %s", modes[i]);
    if (i > 0 && !p->password[0])
        return error_set(err, ERROR_INVALID, "parameter password is missing, with auth_mode %s", modes[i]);
    return 0;
}

static int read_tls(const struct json_value *json, struct kafka_parameters *p, struct error *err)
{
    if (parameter_bool(json, "tls", p->tls, &p->tls, err) < 0 ||
        parameter_text(json, "tls_ca", "", &p->tls_ca, err) < 0 ||
        parameter_text(json, "tls_cert", "", &p->tls_cert, err) < 0 ||
        parameter_text(json, "tls_key", "", &p->tls_key, err) < 0)
        return -1;
    if (!p->tls && (p->tls_ca[0] || p->tls_cert[0] || p->tls_key[0]))
        return error_set(err, ERROR_INVALID, "parameter %s is given without tls",
                         p->tls_ca[0]     ? "tls_ca"
                         : p->tls_cert[0] ? "tls_cert"
                                          : "tls_key");
    if (!p->tls_cert[0] != !p->tls_key[0])
        return error_set(err, ERROR_INVALID, "parameter %s is missing, which belongs to %s",
                         p->tls_key[0] ? "tls_cert" : "tls_key", p->tls_key[0] ? "tls_key" : "tls_cert");
    return 0;
}

static int read_property(const struct json_value *name, const struct json_value *value,
                         struct kafka_parameters *p, struct error *err)
{
    const char *why;
    size_t len;
    const char *raw = json_raw(value, &len);
    char *text = parameter_has_nul(name) ? NULL : parameter_copy(name);
    if (!text)
        return error_set(err, ERROR_INVALID, "parameter properties: a name with a NUL character");
    p->properties[2 * p->n_properties++] = text;
    if ((why = refusal(text)))
        return error_set(err, ERROR_INVALID, "parameter properties: %.*s cannot be set: %s", PARAMETER_SHOWN,
                         text, why);
    if (value->type == JSON_ABSENT || value->type == JSON_NULL || value->type == JSON_ARRAY ||
        value->type == JSON_OBJECT || parameter_has_nul(value))
        return error_set(err, ERROR_INVALID, "parameter properties: %.*s is %.*s, not a text",
                         PARAMETER_SHOWN, text,
                         is_secret(text) ? 9 : (int)(len < PARAMETER_SHOWN ? len : PARAMETER_SHOWN),
                         is_secret(text) ? "something" : raw);
    p->properties[2 * p->n_properties - 1] = parameter_copy(value);
    return p->properties[2 * p->n_properties - 1] ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static int read_properties(const struct json_value *json, struct kafka_parameters *p, struct error *err)
{
    struct json_value object, name, value;
    struct json_iter iter;
    if (!json_member(json, "properties", &object) || object.type == JSON_NULL)
        return 0;
    if (object.type != JSON_OBJECT)
        return parameter_wrong("properties", &object, "an object", err);
    p->properties = calloc(2 * MAX_PROPERTIES, sizeof *p->properties);
    if (!p->properties)
        return error_set(err, ERROR_MEMORY, "out of memory");
    json_iter_init(&iter, &object);
    while (json_next(&iter, &name, &value)) {
        if (p->n_properties == MAX_PROPERTIES)
            return error_set(err, ERROR_INVALID, "parameter properties has more than %d members",
                             MAX_PROPERTIES);
        if (read_property(&name, &value, p, err) < 0)
            return -1;
    }
    return 0;
}

/* Whether librdkafka takes them, for both uses. */
static int try_properties(const struct kafka_parameters *p, struct error *err)
{
    rd_kafka_conf_t *conf;
    if (kafka_parameters_consumer(p, "check", "check", &conf, err) < 0)
        return -1;
    rd_kafka_conf_destroy(conf);
    if (kafka_parameters_producer(p, "check", 1 << 20, &conf, err) < 0)
        return -1;
    rd_kafka_conf_destroy(conf);
    return 0;
}

static int check_topic(const char *topic, struct error *err)
{
    size_t len = strlen(topic);
    if (len > 249 || !strcmp(topic, ".") || !strcmp(topic, "..") ||
        strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != len)
        return error_set(
            err, ERROR_INVALID,
            "parameter topic is \"%.*s\", not a name of at most 249 letters, digits, '.', '_' and "
            "'-'",
            PARAMETER_SHOWN, topic);
    return 0;
}

int kafka_parameters_read(const struct json_value *json, struct kafka_parameters *ret_parameters,
                          struct error *err)
{
    struct kafka_parameters p = {0};
    if (read_brokers(json, &p.broker_list, err) < 0 ||
        parameter_text(json, "topic", NULL, &p.topic, err) < 0 || check_topic(p.topic, err) < 0 ||
        parameter_text(json, "username", "", &p.username, err) < 0 ||
        parameter_text(json, "password", "", &p.password, err) < 0 || read_auth(json, &p, err) < 0 ||
        read_tls(json, &p, err) < 0 || read_properties(json, &p, err) < 0 || try_properties(&p, err) < 0) {
        kafka_parameters_done(&p);
        return -1;
    }
    *ret_parameters = p;
    return 0;
}

void kafka_parameters_done(struct kafka_parameters *p)
{
    free(p->broker_list);
    free(p->topic);
    free(p->mechanism);
    free(p->username);
    free(p->password);
    free(p->tls_ca);
    free(p->tls_cert);
    free(p->tls_key);
    for (size_t i = 0; i < 2 * p->n_properties; i++)
        free(p->properties[i]);
    free(p->properties);
    *p = (struct kafka_parameters){0};
}

/* --- configurations --- */

/* The value is shown by librdkafka, if at all. */
static int set(rd_kafka_conf_t *conf, const char *name, const char *value, struct error *err)
{
    char why[200];
    rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, name, value, why, sizeof why);
    if (result == RD_KAFKA_CONF_OK)
        return 0;
    /* An unknown name may be a slip for one whose value is secret. */
    if (result == RD_KAFKA_CONF_UNKNOWN)
        return error_set(err, ERROR_INVALID, "parameter properties: librdkafka has no \"%.*s\"",
                         PARAMETER_SHOWN, name);
    if (is_secret(name))
        return error_set(err, ERROR_INVALID, "parameter properties: %.*s has a wrong value", PARAMETER_SHOWN,
                         name);
    why[strcspn(why, "\n")] = '\0';
    return error_set(err, ERROR_INVALID, "parameter properties: %.*s is %.*s: %s", PARAMETER_SHOWN, name,
                     PARAMETER_SHOWN, value, why);
}

static int set_all(rd_kafka_conf_t *conf, const char *const settings[][2], size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (settings[i][1][0] && set(conf, settings[i][0], settings[i][1], err) < 0)
            return -1;
    return 0;
}

static int set_common(rd_kafka_conf_t *conf, const struct kafka_parameters *p, const char *client,
                      struct error *err)
{
    const char *protocol = p->mechanism[0] ? p->tls ? "sasl_ssl" : "sasl_plaintext"
                           : p->tls        ? "ssl"
                                           : "plaintext";
    const char *const settings[][2] = {
        {"bootstrap.servers", p->broker_list},
        {"client.id", client},
        {"security.protocol", protocol},
        {"sasl.mechanisms", p->mechanism},
        {"sasl.username", p->mechanism[0] ? p->username : ""},
        {"sasl.password", p->mechanism[0] ? p->password : ""},
        {"ssl.ca.location", p->tls_ca},
        {"ssl.certificate.location", p->tls_cert},
        {"ssl.key.location", p->tls_key},
        {"log.connection.close", "false"},
        {"socket.keepalive.enable", "true"},
        {"reconnect.backoff.max.ms", "1000"}, /* it grows with every cut, also of what worked */
        {"topic.metadata.refresh.interval.ms", "10000"},
    };
    return set_all(conf, settings, sizeof settings / sizeof settings[0], err);
}

static int set_properties(rd_kafka_conf_t *conf, const struct kafka_parameters *p, struct error *err)
{
    for (size_t i = 0; i < p->n_properties; i++)
        if (set(conf, p->properties[2 * i], p->properties[2 * i + 1], err) < 0)
            return -1;
    return 0;
}

static int build(const struct kafka_parameters *p, const char *client, const char *const settings[][2],
                 size_t n, rd_kafka_conf_t **ret_conf, struct error *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (!conf)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (set_common(conf, p, client, err) < 0 || set_all(conf, settings, n, err) < 0 ||
        set_properties(conf, p, err) < 0) {
        rd_kafka_conf_destroy(conf);
        return -1;
    }
    *ret_conf = conf;
    return 0;
}

/* The queue's bounds are for while the source pauses; else kafka_flow keeps it shorter. */
int kafka_parameters_consumer(const struct kafka_parameters *parameters, const char *client,
                              const char *group, rd_kafka_conf_t **ret_conf, struct error *err)
{
    const char *const settings[][2] = {
        {"group.id", group},
        {"enable.auto.commit", "false"},
        {"auto.commit.interval.ms", "1000"}, /* of the commits that the source sends */
        {"enable.auto.offset.store", "false"},
        {"auto.offset.reset", "error"},
        {"isolation.level", "read_committed"},
        {"enable.partition.eof", "true"},
        {"allow.auto.create.topics", "false"},
        {"message.max.bytes", "1000000"},
        {"queued.min.messages", "20000"},
        {"queued.max.messages.kbytes", "6144"},
        {"fetch.max.bytes", "1048576"},
        {"fetch.message.max.bytes", "1048576"},
    };
    return build(parameters, client, settings, sizeof settings / sizeof settings[0], ret_conf, err);
}

int kafka_parameters_producer(const struct kafka_parameters *parameters, const char *client, size_t max_event,
                              rd_kafka_conf_t **ret_conf, struct error *err)
{
    char largest[24];
    size_t bytes = max_event < 1000000 - 65536 ? 1000000 : max_event + 65536;
    snprintf(largest, sizeof largest, "%zu", bytes < 1000000000 ? bytes : 1000000000);
    const char *const settings[][2] = {
        {"enable.idempotence", "true"}, /* and with it: acks=all, at most five requests in flight */
        {"partitioner", "murmur2_random"},
        {"message.max.bytes", largest},
        {"batch.size", "65536"},
        {"linger.ms", "0"},
        {"message.timeout.ms", "30000"},
        {"queue.buffering.max.messages", "10000"},
        {"queue.buffering.max.kbytes", "16384"},
        {"topic.metadata.propagation.max.ms", "2000"},
    };
    return build(parameters, client, settings, sizeof settings / sizeof settings[0], ret_conf, err);
}
