/* Dead letters: events that were refused or given up, kept with their reason in the workspace's storage.
 *
 * Stored as JSON {"reason","detail","time","source"?,"position"?,"trigger"?,"key"?, and one of "event" (a
 * CloudEvent in the JSON format) or the body that a source gave, such as "fields":[[name,value]...]}. Thread:
 * any (each set of changes has one owner). */
#pragma once

#include <stddef.h>

struct changes;
struct cloudevent;

struct dead_letter {
    const char
        *reason; /* invalid_event, too_large, no_trigger, crashed_worker, action_failed, invalid_timer */
    const char *detail;
    const char *source;   /* event source; NULL: none */
    const char *position; /* where in the source, as people write it; NULL: none */
    const char *trigger;  /* id; NULL: none */
    const char *key;      /* idempotency key; NULL: none */
    const struct cloudevent *event;
    const char *body; /* JSON member text instead of an event; NULL: none */
    size_t body_len;
};

#define DEAD_LETTER_DETAIL 256

/* The detail of an event that no trigger is for: names its type and subject, of each at most 80 bytes. */
void dead_letter_unmatched(const struct cloudevent *event, char ret_detail[DEAD_LETTER_DETAIL]);
/* The same for a write into the context of a trigger, whose id is the carrier's subject. */
void dead_letter_no_target(const struct cloudevent *carrier, char ret_detail[DEAD_LETTER_DETAIL]);
/* Adds the letter with an empty key: the checkpoint numbers it. Logs it. */
void dead_letter_add(const struct dead_letter *letter, struct changes *out);
