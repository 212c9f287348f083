/* A Kafka message as a CloudEvent, and the other way round (CloudEvents Kafka protocol binding 1.0.2).
 *
 * Structured: the value is the event as a JSON object; so is a value without any of the binding's headers, as
 * the original clients write it. Binary: the attributes are headers `ce_<name>`, datacontenttype is the
 * header content-type, and the value is the data. Thread: one at a time. */
#pragma once

#include <stddef.h>
#include <librdkafka/rdkafka.h>

struct buffer;
struct cloudevent;
struct error;

/* Reads the event, which borrows the message's memory, and scratch, which must not be touched meanwhile.
 * Errors: ERROR_INVALID, also for a message without a value that is no event in binary mode (a tombstone),
 * ERROR_MEMORY. */
int kafka_message_read(const rd_kafka_message_t *message, struct buffer *scratch, struct cloudevent *event,
                       struct error *err);
/* The same from the parts of a message; value NULL: none. headers may be NULL. */
int kafka_message_parse(const void *value, size_t len, const rd_kafka_headers_t *headers,
                        struct buffer *scratch, struct cloudevent *event, struct error *err);

/* Appends the member "message" of a dead letter: {"partition","offset","timestamp","key","value","headers"},
 * bytes that are no UTF-8 as {"base64"}. */
void kafka_message_write(const rd_kafka_message_t *message, struct buffer *out);
/* Its members "key", "value" and "headers", from the parts of a message; NULL: none. */
void kafka_message_keep(const void *key, size_t key_len, const void *value, size_t len,
                        const rd_kafka_headers_t *headers, struct buffer *out);
