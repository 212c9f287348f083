/* Where in the Maps of a state machine an event belongs: a path of iterations, outermost first, that events
 * carry as the extension attribute `triggerflowitem`:
 *
 *     <run>-<join>-<index>[.<run>-<join>-<index>...]
 *
 * run: which firing of the Map (16 hex digits), join: hash of the id of the trigger that collects its results
 * (16 hex digits), index: of the item. Events of no iteration have none. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cloudevent;
struct cloudevent_span;

#define ITEM_ATTRIBUTE "triggerflowitem"
#define ITEM_RUN 16       /* characters of a run */
#define ITEM_MAX_DEPTH 16 /* Maps within Maps */
#define ITEM_MAX_LENGTH 1024

/* The innermost iteration; text borrows from the path. */
struct item {
    const char *run; /* ITEM_RUN characters */
    uint64_t join;
    int64_t index;
    size_t outer_len; /* of the path without it */
    size_t run_len;   /* of the path up to the end of `run` */
};

/* The event's path; len 0 without one, or when it cannot be one. */
void item_of(const struct cloudevent *event, struct cloudevent_span *ret_path);
/* false: the path is empty, or none. */
bool item_innermost(const char *path, size_t len, struct item *ret_item);
/* Appends the path of an iteration inside `outer`. false: nested too deeply; nothing is appended. */
bool item_write(const char *outer, size_t outer_len, const char *run, uint64_t join, uint32_t index,
                struct buffer *out);
/* The hash of a trigger's id. */
uint64_t item_join(const char *id, size_t len);
