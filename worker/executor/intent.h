/* An intent: something an action wants done outside, at least once, under one idempotency key.
 *
 * Born on a shard, committed with its checkpoint under `field` in the outbox, then started by the executor;
 * when it is done, the next checkpoint removes it from the outbox. Lists own their members. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"

#define INTENT_FIELD_MAX 48
#define INTENT_FANS_OUT 'f'

struct buffer;
struct fan_out;
struct firing;
struct sink;
struct line;

struct intent {
    struct intent *next;
    const struct action_type *action;
    char field[INTENT_FIELD_MAX]; /* <epoch>-<shard>-<number>, zero-padded: fields sort in order */
    char key[ACTION_KEY_MAX];
    bool replayed;  /* came from storage: may have been started before */
    bool uncertain; /* left by an earlier life of the worker, in which it may have been started */
    bool begun;     /* an invocation, in this life: it may have been sent. Thread: executor */
    bool given_up;  /* set by the executor: failed for good, with the reason in `error` */
    char error[sizeof((struct error *)NULL)->message];
    unsigned attempts;
    uint64_t final_position[2]; /* where it was published last */
    void *event;              /* packed: what is to go into the workflow with its end; NULL: nothing. Owned */
    bool event_optional;      /* only if a trigger waits for it */
    char *report;             /* members for the dead letter, as JSON text; NULL: none. Owned */
    struct sink *sink;        /* that is to publish it; NULL: none has it. Thread: executor */
    struct intent *wait_next; /* in a list of a sink */
    uint64_t not_before_ns;
    struct json_value root;  /* of the text */
    struct line *line;       /* the outbox's, in which it has a place; NULL: none */
    struct fan_out *fan_out; /* which it is an element of (fan_out.h); NULL: none */
    uint32_t index;          /* of the element */
    bool fans_out;           /* it has elements: its field ends with INTENT_FANS_OUT */
    size_t len;
    char text[]; /* the JSON document as stored: {"key","trigger","action","body":{...}} */
};

/* Makes an intent from its stored document (copied). Errors: ERROR_INVALID, ERROR_MEMORY. */
int intent_load(const char *field, size_t field_len, const char *document, size_t len,
                struct intent **ret_intent, struct error *err);
/* Appends the document of a firing's intent, as it is stored. elements: a JSON array, or NULL without. */
void intent_write(const struct firing *firing, const struct action_type *action, const char *key,
                  const char *body, size_t body_len, const char *elements, size_t elements_len,
                  struct buffer *out);
/* Whether the field is that of an intent with elements. */
bool intent_field_fans_out(const char *field);
void intent_free(struct intent *intent);
void intent_free_list(struct intent *intent);

struct json_value;
/* The action's own object, and the trigger's id, in the document. */
bool intent_body(const struct intent *intent, struct json_value *ret_body);
bool intent_trigger(const struct intent *intent, struct json_value *ret_trigger);
/* What is this element's own. False: it is no element. */
bool intent_element(const struct intent *intent, struct json_value *ret_element);

/* The event that a sink is to publish (a JSON object in the document). Errors: ERROR_INVALID. */
int intent_event(const struct intent *intent, struct json_value *ret_event, struct error *err);

/* Intents that wait in order, by `wait_next`. Owns none: who takes one reports it (executor_done). */
struct intent_queue {
    struct intent *head; /* NULL: empty */
    struct intent **end;
};
void intent_queue_init(struct intent_queue *queue);
void intent_queue_append(struct intent_queue *queue, struct intent *intent);
struct intent *intent_queue_take(struct intent_queue *queue); /* the first; NULL */
void intent_queue_put_back(struct intent_queue *queue, struct intent *intent);
/* Puts all of `from` in front of it. */
void intent_queue_put_all_back(struct intent_queue *queue, struct intent_queue *from);
