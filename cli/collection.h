/* What a workspace has several of, each under its name: triggers, event sources. Thread: main. */
#pragma once

struct cli;
struct json_object;

struct collection {
    const char *path; /* in the API: "trigger", "eventsource" */
    /* Prints an array of them, in which those that are gone are missing (NULL). Returns an exit status. */
    int (*print)(struct cli *cli, struct json_object *found);
};

/* Lists those of the workspace that is the first argument; with the flag --names just their names. Returns an
 * exit status. */
int collection_list(struct cli *cli, const struct collection *collection);
/* Shows the one that the second argument names, with --secrets as it is. Returns an exit status. */
int collection_show(struct cli *cli, const struct collection *collection);
