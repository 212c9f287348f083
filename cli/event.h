/* CloudEvents as people give them: by options, or as lines of JSON that lack what can be filled in.
 * Thread: main. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "cli/cli.h"

struct error;
struct json_object;

extern const struct cli_option event_options[]; /* of commands that take one event */

/* One complete event from --type, --subject, --source, --id, --data or --file (owned). CLI_OK, or an exit
 * status, complained about. */
int event_from_options(const struct cli *cli, struct json_object **ret_event);

/* Fills in what lines lack. */
struct event_filler {
    struct buffer type; /* each a JSON string with its quotes, or empty: not given */
    struct buffer subject;
    struct buffer source;
    char prefix[129]; /* of generated ids */
    uint64_t line;    /* the number of the last line */
    struct buffer scratch;
};

int event_filler_init(struct event_filler *filler, const struct cli *cli);
void event_filler_done(struct event_filler *filler);
/* Appends the event of one line (JSON object), completed: specversion "1.0", id PREFIX-LINE, source, type and
 * subject as given by options. Errors (out is as before): ERROR_INVALID for what the API would refuse. */
int event_complete(struct event_filler *filler, const char *line, size_t len, struct buffer *out,
                   struct error *err);
